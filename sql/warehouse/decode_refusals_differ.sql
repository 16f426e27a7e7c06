-- B-5: records that decode refused for the live output and not for the rebuild ($3), or the other way round.
SELECT coalesce(l.partition, s.partition), coalesce(l."offset", s."offset"), s."offset" IS NULL
FROM (SELECT r.partition, r."offset"
      FROM highwater.refusals r
      JOIN highwater.marks m ON m.topic = r.topic AND m.output = $3 AND m.partition = r.partition
                            AND m.generation = r.generation AND m.first_offset <= r."offset"
      WHERE r.topic = $1 AND r.output = $2 AND r.letter = 'dead_letters' AND r.retried_at IS NULL) l
FULL JOIN (SELECT r.partition, r."offset" FROM highwater.refusals r
           WHERE r.topic = $1 AND r.output = $3 AND r.letter = 'dead_letters') s USING (partition, "offset")
WHERE l."offset" IS NULL OR s."offset" IS NULL
ORDER BY 1, 2
LIMIT 1
