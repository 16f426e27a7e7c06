-- A refused record stands here once per output that refused it; the counts are marks.dead.
CREATE TABLE highwater.dead_letters (
    output      text COLLATE "C" NOT NULL,
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint  NOT NULL,
    "timestamp" timestamptz NOT NULL,
    class       text NOT NULL,
    column_name text,
    reason      text NOT NULL,
    key         bytea,
    value       bytea,
    headers     jsonb NOT NULL,
    stored_at   timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, "offset", output)
)
