-- U-1: the keys that a topic remembers, in batches: what a cut took of a partition, 24 bytes a key. 16 are a hash of the
-- columns' values; 8, in network order, are the event time in microseconds since 1970 at which the partition forgets
-- it: the record's own, plus `within`, plus `max_disorder`, compared with marks.event_time_max of the dead letters.
-- Numbers ascend in the order of commits: whoever takes one knows the keys of all before it.
CREATE TABLE highwater.unique_keys (
    topic     text COLLATE "C" NOT NULL,
    number    bigint  NOT NULL CHECK (number > 0),
    partition integer NOT NULL,
    keys      bytea   NOT NULL CHECK (length(keys) > 0 AND length(keys) % 24 = 0),
    forget_at timestamptz NOT NULL,
    PRIMARY KEY (topic, number)
);
COMMENT ON COLUMN highwater.unique_keys.forget_at IS 'of the last of its keys';
-- Hashes do not compress.
ALTER TABLE highwater.unique_keys ALTER COLUMN keys SET STORAGE EXTERNAL;
CREATE INDEX unique_keys_to_forget ON highwater.unique_keys (topic, partition, forget_at)
