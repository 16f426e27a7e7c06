-- I-1, I-2, I-3: one high-water mark per output and partition; what lies below it has exactly one fate each.
-- Text is COLLATE "C" so that the server sorts as the process does (W-2). Marks are rewritten about every
-- second and no indexed column ever changes: half-empty pages keep those updates heap-only.
CREATE TABLE highwater.marks (
    output         text COLLATE "C" NOT NULL,
    topic          text COLLATE "C" NOT NULL,
    partition      integer NOT NULL CHECK (partition >= 0),
    first_offset   bigint  NOT NULL CHECK (first_offset >= 0),
    next_offset    bigint  NOT NULL,
    epoch          bigint  NOT NULL CHECK (epoch >= 0),
    event_time_max timestamptz,
    accepted       bigint  NOT NULL DEFAULT 0 CHECK (accepted >= 0),
    filtered       bigint  NOT NULL DEFAULT 0 CHECK (filtered >= 0),
    late           bigint  NOT NULL DEFAULT 0 CHECK (late >= 0),
    dead           bigint  NOT NULL DEFAULT 0 CHECK (dead >= 0),
    absent         bigint  NOT NULL DEFAULT 0 CHECK (absent >= 0),
    sequence       bigint  NOT NULL DEFAULT 0,
    owner          text    NOT NULL,
    taken_at       timestamptz NOT NULL,
    committed_at   timestamptz,
    PRIMARY KEY (topic, output, partition),
    CONSTRAINT each_offset_has_one_fate
        CHECK (first_offset + accepted + filtered + late + dead + absent = next_offset)
) WITH (fillfactor = 50)
