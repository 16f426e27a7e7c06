-- I-3: each output that counts a record as dead says so in a row of its own; the counts are marks.dead. `letter` is
-- the output of the dead letter that holds the record. event_time_max is the partition's highest event time below
-- the record, as the output saw it: a retry judges lateness by it, and `verify --deep` judges retried rows again.
-- What decode refuses raises no watermark; what an expression refuses has raised it.
-- A mark that is removed takes its refusals with it: its output will read those offsets anew.
CREATE TABLE highwater.refusals (
    topic          text COLLATE "C" NOT NULL,
    output         text COLLATE "C" NOT NULL,
    partition      integer NOT NULL,
    "offset"       bigint  NOT NULL,
    letter         text COLLATE "C" NOT NULL,
    by_decode      boolean NOT NULL,
    event_time_max timestamptz,
    retried_at     timestamptz,
    PRIMARY KEY (topic, partition, "offset", output),
    FOREIGN KEY (topic, output, partition) REFERENCES highwater.marks (topic, output, partition) ON DELETE CASCADE
);

-- Of letters that are there: whoever has passed the offset has refused it. What their watermark was is not known, so
-- a retry takes them as in time.
INSERT INTO highwater.refusals (topic, output, partition, "offset", letter, by_decode)
SELECT d.topic, m.output, d.partition, d."offset", d.output, d.output = 'dead_letters'
FROM highwater.dead_letters d
JOIN highwater.marks m ON m.topic = d.topic AND m.partition = d.partition
     AND m.first_offset <= d."offset" AND d."offset" < m.next_offset
     AND (d.output = 'dead_letters' OR d.output = m.output);

-- Whether key, value and headers are as they came; else Kafka has them.
ALTER TABLE highwater.dead_letters ADD COLUMN raw boolean NOT NULL DEFAULT true;
UPDATE highwater.dead_letters SET raw = false WHERE key IS NULL AND value IS NULL AND headers = '[]';

-- Files of a retry hold offsets from between those of cuts.
ALTER TABLE highwater.lake_files ADD COLUMN origin text NOT NULL DEFAULT 'cut' CHECK (origin IN ('cut', 'retry'))
