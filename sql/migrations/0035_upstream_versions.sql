-- X-1: the tables that a topic's source has had, as schemas of its records told them. One row per table, not per
-- record: `columns` is JSON of names and types, `version` its SHA-256. `refused` stands in the way until a person
-- accepts it; `diff` says how it differed from what was declared when it was first met.
CREATE TABLE highwater.upstream_versions (
    topic       text COLLATE "C" NOT NULL,
    version     text COLLATE "C" NOT NULL,
    columns     text    NOT NULL,
    verdict     text    NOT NULL CHECK (verdict IN ('known', 'refused', 'accepted')),
    diff        text    NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint  NOT NULL,
    met_at      timestamptz NOT NULL,
    accepted_at timestamptz,
    accepted_by text,
    PRIMARY KEY (topic, version),
    CHECK ((verdict = 'accepted') = (accepted_at IS NOT NULL))
)
