-- Letters that no output counts as dead.
SELECT d.topic, d.output, d.partition, d."offset"
FROM highwater.dead_letters d
WHERE NOT EXISTS (SELECT FROM highwater.refusals r
                  WHERE r.topic = d.topic AND r.partition = d.partition AND r."offset" = d."offset"
                    AND r.letter = d.output AND r.generation = d.generation AND r.retried_at IS NULL)
ORDER BY 1, 3, 4, 2
LIMIT 100
