-- G-2: what a person accepted as gone, one row per output. Of a generation the lost ones sum to marks.lost.
-- A recreated topic's row is empty (what it held above the mark nobody knows); a truncated one's names the
-- offsets that Kafka lost and we hold.
CREATE TABLE highwater.gaps (
    topic        text COLLATE "C" NOT NULL,
    partition    integer NOT NULL,
    output       text COLLATE "C" NOT NULL,
    generation   integer NOT NULL,
    from_offset  bigint  NOT NULL,
    to_offset    bigint  NOT NULL CHECK (to_offset >= from_offset),
    reason       text    NOT NULL CHECK (reason IN ('retention', 'recreated', 'truncated')),
    lost         bigint  NOT NULL
        CHECK (lost = CASE reason WHEN 'retention' THEN to_offset - from_offset ELSE 0 END),
    topic_id_old text COLLATE "C",
    topic_id_new text COLLATE "C",
    accepted_at  timestamptz NOT NULL,
    accepted_by  text    NOT NULL,
    PRIMARY KEY (topic, partition, output, generation, from_offset, reason)
)
