-- Z-1: files of the lake that are written anew. A rewrite stands here from its first step to its swap or `replay --abort`;
-- epoch is that of the process which goes on with it, number tells its files' names from all others.
CREATE SEQUENCE highwater.lake_rewrite_numbers;
CREATE TABLE highwater.lake_rewrites (
    topic      text COLLATE "C" PRIMARY KEY,
    number     bigint NOT NULL,
    epoch      bigint NOT NULL DEFAULT 0,
    definition text   NOT NULL,
    owner      text   NOT NULL,
    grace      bigint NOT NULL CHECK (grace >= 0),
    started_at timestamptz NOT NULL
);
-- Whole files only: no file holds rows of within and of without. What lies below next_offset is written.
CREATE TABLE highwater.lake_rewrite_spans (
    topic       text COLLATE "C" NOT NULL REFERENCES highwater.lake_rewrites ON DELETE CASCADE,
    partition   integer NOT NULL,
    generation  integer NOT NULL,
    from_offset bigint  NOT NULL,
    next_offset bigint  NOT NULL,
    to_offset   bigint  NOT NULL,
    PRIMARY KEY (topic, partition),
    CHECK (from_offset <= next_offset AND next_offset <= to_offset AND from_offset < to_offset)
);
-- W-4 for rewrites: noted before the first part. Without cascade: a rewrite does not end before these are accounted for.
CREATE TABLE highwater.lake_rewrite_uploads (
    upload    text COLLATE "C" PRIMARY KEY,
    topic     text COLLATE "C" NOT NULL REFERENCES highwater.lake_rewrites,
    path      text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    epoch     bigint  NOT NULL
);
-- Uploaded whole, staged, seen by nobody until the swap.
CREATE TABLE highwater.lake_rewrite_files (
    path           text COLLATE "C" PRIMARY KEY,
    topic          text COLLATE "C" NOT NULL REFERENCES highwater.lake_rewrites,
    upload         text   NOT NULL,
    parts          text[] NOT NULL,
    bytes          bigint NOT NULL CHECK (bytes > 0),
    rows           bigint NOT NULL CHECK (rows > 0),
    extra_rows     bigint NOT NULL,
    checksum       text   NOT NULL,
    event_time_min timestamptz NOT NULL,
    event_time_max timestamptz NOT NULL,
    schema         text   NOT NULL,
    sequence       bigint NOT NULL,
    partition      integer NOT NULL,
    from_offset    bigint  NOT NULL,
    to_offset      bigint  NOT NULL
);
-- Z-3: files of before a swap, which readers with an old listing still find.
CREATE TABLE highwater.lake_retired_files (
    path         text COLLATE "C" PRIMARY KEY,
    topic        text COLLATE "C" NOT NULL,
    bytes        bigint NOT NULL,
    rows         bigint NOT NULL,
    rewrite      bigint NOT NULL,
    retired_at   timestamptz NOT NULL,
    remove_after timestamptz NOT NULL
);
ALTER TABLE highwater.lake_files ADD COLUMN rewrite bigint;
-- Z-2: what a reader of the lake reads: the files of before until all that replace them are there.
CREATE VIEW highwater.lake_current_files AS
SELECT f.topic, f.path, f.bytes, f.rows
FROM highwater.lake_files f
WHERE f.completed_at IS NOT NULL
  AND NOT EXISTS (SELECT FROM highwater.lake_files o
                  WHERE o.topic = f.topic AND o.rewrite = f.rewrite AND o.completed_at IS NULL)
UNION ALL
SELECT r.topic, r.path, r.bytes, r.rows
FROM highwater.lake_retired_files r
WHERE EXISTS (SELECT FROM highwater.lake_files o
              WHERE o.topic = r.topic AND o.rewrite = r.rewrite AND o.completed_at IS NULL)
