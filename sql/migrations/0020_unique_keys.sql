-- U-1: the keys that a topic remembers: one row per key, where it was accepted, and the event time at which its
-- partition forgets it (its own, plus `within`, plus `max_disorder`: compared with marks.event_time_max of the dead
-- letters). The key is a 128-bit hash of the columns' values; uuid is the type of 16 bytes.
CREATE TABLE highwater.unique_keys (
    topic     text COLLATE "C" NOT NULL,
    key       uuid    NOT NULL,
    partition integer NOT NULL,
    "offset"  bigint  NOT NULL,
    forget_at timestamptz NOT NULL,
    PRIMARY KEY (topic, key)
);
CREATE INDEX unique_keys_to_forget ON highwater.unique_keys (topic, partition, forget_at)
