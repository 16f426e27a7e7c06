-- Records that a model has taken and the lake has refused, as happens when a topic file is mended between the two:
-- until they are retried the lake cannot give the model's table.
SELECT l.topic, m.output, count(*)
FROM highwater.refusals l
JOIN (SELECT topic, partition, output, generation, first_offset, next_offset FROM highwater.marks
      UNION ALL
      SELECT topic, partition, output, generation, first_offset, next_offset FROM highwater.former_marks) m
  ON m.topic = l.topic AND m.partition = l.partition AND m.generation = l.generation AND m.output LIKE 'model:%'
 AND m.first_offset <= l."offset" AND l."offset" < m.next_offset
WHERE l.output = 'lake' AND l.retried_at IS NULL
  AND NOT EXISTS (SELECT FROM highwater.refusals r
                  WHERE r.topic = l.topic AND r.partition = l.partition AND r."offset" = l."offset"
                    AND r.output = m.output AND r.generation = l.generation AND r.retried_at IS NULL)
GROUP BY l.topic, m.output
