-- I-3, G-2: offsets that a person accepted as lost have a fate of their own. A topic made again begins a new
-- generation of its partitions: the totals of the former one stay in former_marks, so that each generation
-- still adds up. topic_id is Kafka's (KIP-516), null where the broker has none.
ALTER TABLE highwater.marks
    ADD COLUMN topic_id   text COLLATE "C",
    ADD COLUMN generation integer NOT NULL DEFAULT 1 CHECK (generation >= 1),
    ADD COLUMN lost       bigint  NOT NULL DEFAULT 0 CHECK (lost >= 0),
    DROP CONSTRAINT each_offset_has_one_fate,
    ADD CONSTRAINT each_offset_has_one_fate
        CHECK (first_offset + accepted + filtered + late + dead + absent + duplicate + lost = next_offset);

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
    duplicate      bigint  NOT NULL,
    lost           bigint  NOT NULL,
    sequence       bigint  NOT NULL,
    owner          text    NOT NULL,
    committed_at   timestamptz,
    ended_at       timestamptz NOT NULL,
    PRIMARY KEY (topic, output, partition, generation),
    CONSTRAINT each_offset_has_one_fate
        CHECK (first_offset + accepted + filtered + late + dead + absent + duplicate + lost = next_offset)
);

-- Offsets recur from generation to generation. What is not of the partition's present one stays for the proof.
ALTER TABLE highwater.lake_file_ranges ADD COLUMN generation integer NOT NULL DEFAULT 1;
ALTER TABLE highwater.dead_letters
    ADD COLUMN generation integer NOT NULL DEFAULT 1,
    DROP CONSTRAINT dead_letters_pkey,
    ADD PRIMARY KEY (topic, partition, "offset", output, generation);
ALTER TABLE highwater.refusals
    ADD COLUMN generation integer NOT NULL DEFAULT 1,
    DROP CONSTRAINT refusals_pkey,
    ADD PRIMARY KEY (topic, partition, "offset", output, generation);
ALTER TABLE highwater.duplicates
    ADD COLUMN generation integer NOT NULL DEFAULT 1,
    DROP CONSTRAINT duplicates_pkey,
    ADD PRIMARY KEY (topic, partition, generation, "offset");
ALTER TABLE highwater.idle_advances
    ADD COLUMN generation integer NOT NULL DEFAULT 1,
    DROP CONSTRAINT idle_advances_pkey,
    ADD PRIMARY KEY (topic, partition, generation, before_offset);

-- E-5, as it was, of each partition's present generation.
CREATE OR REPLACE VIEW highwater.partition_watermarks AS
SELECT t.topic, o.output, p.partition, come.event_time,
       come.event_time - t.max_disorder AS watermark,
       coalesce(m.event_time_at, m.taken_at, t.declared_at) AS since
FROM highwater.topics t
JOIN (SELECT DISTINCT topic, output FROM highwater.marks WHERE output <> 'lake') o ON o.topic = t.topic
CROSS JOIN LATERAL generate_series(0, t.partitions - 1) AS p (partition)
LEFT JOIN highwater.marks m ON m.topic = t.topic AND m.output = o.output AND m.partition = p.partition
CROSS JOIN LATERAL (
    SELECT coalesce(m.event_time_max,
                    (SELECT max(a.event_time) FROM highwater.idle_advances a
                     WHERE a.topic = t.topic AND a.partition = p.partition
                       AND a.generation = coalesce(m.generation, 1)
                       AND a.before_offset <= coalesce(m.next_offset, 0))) AS event_time) AS come
