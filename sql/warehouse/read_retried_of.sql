-- B-4: what a retry has offered to an output after decode had refused it, and the output took, or refused by its own
-- expressions: judged by what is noted here, it raised no watermark.
SELECT r.partition, r."offset", r.event_time_max
FROM highwater.refusals r
JOIN highwater.marks m ON m.topic = r.topic AND m.output = r.output AND m.partition = r.partition
                      AND m.generation = r.generation
WHERE r.topic = $1 AND r.output = $2 AND r.by_decode AND (r.retried_at IS NOT NULL OR r.letter = r.output)
