-- Z-2: spans that are not written to their end, or are not of what the lake's mark is of.
SELECT s.partition, s.next_offset, s.to_offset, m.generation IS DISTINCT FROM s.generation OR m.next_offset < s.to_offset
FROM highwater.lake_rewrite_spans s
LEFT JOIN highwater.marks m ON m.topic = s.topic AND m.output = 'lake' AND m.partition = s.partition
WHERE s.topic = $1
  AND (s.next_offset < s.to_offset OR m.generation IS DISTINCT FROM s.generation OR m.next_offset < s.to_offset)
ORDER BY s.partition
