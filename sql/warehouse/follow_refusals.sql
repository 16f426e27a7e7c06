-- B-4: what a retry has offered, and the rebuild refuses by its own expressions, raised no watermark in the rebuild either.
UPDATE highwater.refusals s SET by_decode = true
FROM highwater.refusals l
WHERE s.topic = $1 AND s.output = $3 AND s.letter = $3 AND l.topic = $1 AND l.output = $2
  AND l.partition = s.partition AND l."offset" = s."offset" AND l.generation = s.generation
  AND l.by_decode AND (l.retried_at IS NOT NULL OR l.letter = l.output)
