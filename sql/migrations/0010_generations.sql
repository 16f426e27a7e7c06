-- I-3, G-2: offsets that a person accepted as lost have a fate of their own. A topic made again begins a new
-- generation of its partitions: the totals of the former one stay in former_marks, so that each generation
-- still adds up. topic_id is Kafka's (KIP-516), null where the broker has none.
ALTER TABLE highwater.marks
    ADD COLUMN topic_id   text COLLATE "C",
    ADD COLUMN generation integer NOT NULL DEFAULT 1 CHECK (generation >= 1),
    ADD COLUMN lost       bigint  NOT NULL DEFAULT 0 CHECK (lost >= 0),
    DROP CONSTRAINT each_offset_has_one_fate,
    ADD CONSTRAINT each_offset_has_one_fate
        CHECK (first_offset + accepted + filtered + late + dead + absent + lost = next_offset);

CREATE TABLE highwater.former_marks (
    output         text COLLATE "C" NOT NULL,
    topic          text COLLATE "C" NOT NULL,
    partition      integer NOT NULL,
    generation     integer NOT NULL,
    topic_id       text COLLATE "C",
    first_offset   bigint  NOT NULL,
    next_offset    bigint  NOT NULL,
    epoch          bigint  NOT NULL,
    event_time_max timestamptz,
    accepted       bigint  NOT NULL,
    filtered       bigint  NOT NULL,
    late           bigint  NOT NULL,
    dead           bigint  NOT NULL,
    absent         bigint  NOT NULL,
    lost           bigint  NOT NULL,
    sequence       bigint  NOT NULL,
    owner          text    NOT NULL,
    committed_at   timestamptz,
    ended_at       timestamptz NOT NULL,
    PRIMARY KEY (topic, output, partition, generation),
    CONSTRAINT each_offset_has_one_fate
        CHECK (first_offset + accepted + filtered + late + dead + absent + lost = next_offset)
);

-- Offsets recur from generation to generation.
ALTER TABLE highwater.lake_file_ranges ADD COLUMN generation integer NOT NULL DEFAULT 1;
ALTER TABLE highwater.dead_letters
    ADD COLUMN generation integer NOT NULL DEFAULT 1,
    DROP CONSTRAINT dead_letters_pkey,
    ADD PRIMARY KEY (topic, partition, "offset", output, generation)
