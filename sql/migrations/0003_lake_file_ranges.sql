-- Where a file's rows come from. Files of one cut interleave (one file per hour of the day, say), so ranges
-- of different files may overlap; the sum of rows per partition is what must equal marks.accepted.
CREATE TABLE highwater.lake_file_ranges (
    path        text COLLATE "C" NOT NULL REFERENCES highwater.lake_files ON DELETE CASCADE,
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    from_offset bigint  NOT NULL,
    to_offset   bigint  NOT NULL,
    rows        bigint  NOT NULL CHECK (rows > 0),
    PRIMARY KEY (topic, partition, from_offset, path),
    CHECK (rows <= to_offset - from_offset)
)
