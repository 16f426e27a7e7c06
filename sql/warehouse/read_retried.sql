-- Rows that raised no watermark in their place, and that an output took by a retry: `verify --deep` judges them as
-- the retry did. Those on which an expression failed raised it, and are judged as any other.
SELECT topic, output, partition, "offset", event_time_max, generation
FROM highwater.refusals
WHERE retried_at IS NOT NULL AND by_decode
