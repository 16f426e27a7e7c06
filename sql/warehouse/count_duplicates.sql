-- What marks.duplicate must equal: the recorded duplicates that each output has passed.
SELECT m.topic, m.output, m.partition, count(*)
FROM highwater.marks m
JOIN highwater.duplicates d ON d.topic = m.topic AND d.partition = m.partition
 AND d."offset" >= m.first_offset AND d."offset" < m.next_offset
GROUP BY 1, 2, 3
