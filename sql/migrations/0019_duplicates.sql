-- I-3, U-2: a record whose key was accepted before it has a fate of its own, and stands here by its place. Whoever
-- passes it later (the lake, a new model, `verify`) believes this table and never judges again. Its event time is
-- kept, since it raised the watermark of its partition as any record does.
ALTER TABLE highwater.marks
    ADD COLUMN duplicate bigint NOT NULL DEFAULT 0 CHECK (duplicate >= 0),
    DROP CONSTRAINT each_offset_has_one_fate,
    ADD CONSTRAINT each_offset_has_one_fate
        CHECK (first_offset + accepted + filtered + late + dead + absent + duplicate = next_offset);
CREATE TABLE highwater.duplicates (
    topic      text COLLATE "C" NOT NULL,
    partition  integer NOT NULL,
    "offset"   bigint  NOT NULL,
    event_time timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, "offset")
)
