-- A file of the lake stands here if and only if its cut was committed; completed_at says that readers see it.
CREATE TABLE highwater.lake_files (
    path           text COLLATE "C" PRIMARY KEY,
    topic          text COLLATE "C" NOT NULL,
    upload         text   NOT NULL,
    parts          text[] NOT NULL,
    bytes          bigint NOT NULL CHECK (bytes > 0),
    rows           bigint NOT NULL CHECK (rows > 0),
    checksum       text   NOT NULL,
    event_time_min timestamptz NOT NULL,
    event_time_max timestamptz NOT NULL,
    schema         text   NOT NULL,
    sequence       bigint NOT NULL,
    committed_at   timestamptz NOT NULL,
    completed_at   timestamptz,
    CHECK (event_time_min <= event_time_max)
)
