-- B-4, U-2: the verdicts that an output has still to pass, by partition.
SELECT m.partition, m.next_offset, coalesce(array_agg(d."offset" ORDER BY d."offset")
                                            FILTER (WHERE d."offset" IS NOT NULL), '{}')
FROM highwater.marks m
LEFT JOIN highwater.duplicates d ON d.topic = m.topic AND d.partition = m.partition
     AND d.generation = m.generation AND d."offset" >= m.next_offset
WHERE m.topic = $1 AND m.output = $2
GROUP BY m.partition, m.next_offset
ORDER BY m.partition
