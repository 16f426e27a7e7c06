-- What marks.dead must equal: refusals per output and partition that stand, and whose letter is there.
SELECT r.topic, r.output, r.partition, count(*)
FROM highwater.refusals r
JOIN highwater.dead_letters d
  ON d.topic = r.topic AND d.partition = r.partition AND d."offset" = r."offset" AND d.output = r.letter
WHERE r.retried_at IS NULL
GROUP BY 1, 2, 3
