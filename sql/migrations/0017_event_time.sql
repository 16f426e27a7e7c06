-- What PostgreSQL must know to say how far event time has come: the topics with their disorder and number
-- of partitions (0: not asked yet), and what moved event time without a record (E-4): before the record at
-- before_offset was judged, the partition had come to event_time. A row rises while its place is the log's
-- end, and goes where the record that follows had come as far by itself.
CREATE TABLE highwater.topics (
    topic        text COLLATE "C" PRIMARY KEY,
    max_disorder interval NOT NULL,
    partitions   integer NOT NULL DEFAULT 0 CHECK (partitions >= 0),
    declared_at  timestamptz NOT NULL
);
CREATE TABLE highwater.idle_advances (
    topic         text COLLATE "C" NOT NULL,
    partition     integer NOT NULL CHECK (partition >= 0),
    before_offset bigint NOT NULL CHECK (before_offset >= 0),
    event_time    timestamptz NOT NULL,
    recorded_at   timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, before_offset)
);
ALTER TABLE highwater.marks ADD COLUMN event_time_at timestamptz;
COMMENT ON COLUMN highwater.marks.event_time_at IS 'when event_time_max last rose, by the server''s clock'
