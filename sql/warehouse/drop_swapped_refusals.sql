-- I-3: what the live output refused, or took by a retry and the rebuild refuses, is the rebuild's to say. What it took
-- by a retry, and the rebuild after it, stays noted for whoever follows next (B-4).
DELETE FROM highwater.refusals r
USING highwater.marks m
WHERE r.topic = $1 AND r.output = $2 AND m.topic = $1 AND m.output = $2 AND m.partition = r.partition
  AND m.generation = r.generation
  AND (r.retried_at IS NULL
       OR EXISTS (SELECT FROM highwater.refusals s
                  WHERE s.topic = $1 AND s.output = $3 AND s.partition = r.partition AND s."offset" = r."offset"
                    AND s.generation = r.generation))
