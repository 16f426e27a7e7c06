-- N-5: loads of a source's table that no connector marks. A person says before a load that it begins, which is at
-- the end of each partition's log then, and after it that it has ended. Of a partition that a load has no span of,
-- it begins with the first offset; it ends there, too, if it has ended.
CREATE TABLE highwater.loads (
    topic    text COLLATE "C" NOT NULL,
    number   integer NOT NULL CHECK (number >= 1),
    begun_by text NOT NULL,
    begun_at timestamptz NOT NULL,
    ended_by text,
    ended_at timestamptz,
    PRIMARY KEY (topic, number),
    CHECK ((ended_at IS NULL) = (ended_by IS NULL))
);

CREATE UNIQUE INDEX loads_open ON highwater.loads (topic) WHERE ended_at IS NULL;

CREATE TABLE highwater.load_spans (
    topic       text COLLATE "C" NOT NULL,
    number      integer NOT NULL,
    partition   integer NOT NULL,
    from_offset bigint  NOT NULL CHECK (from_offset >= 0),
    to_offset   bigint  CHECK (to_offset >= from_offset),
    PRIMARY KEY (topic, number, partition),
    FOREIGN KEY (topic, number) REFERENCES highwater.loads
)
