-- What marks.dead must equal: refusals per output, partition and generation that stand, and whose letter is there.
SELECT r.topic, r.output, r.partition, count(*), r.generation
FROM highwater.refusals r
JOIN highwater.dead_letters d
  ON d.topic = r.topic AND d.partition = r.partition AND d."offset" = r."offset" AND d.output = r.letter
 AND d.generation = r.generation
WHERE r.retried_at IS NULL
GROUP BY 1, 2, 3, 5
