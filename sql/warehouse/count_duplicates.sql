-- What marks.duplicate must equal: the recorded duplicates that each output has passed, by generation.
SELECT m.topic, m.output, m.partition, count(*), m.generation
FROM (SELECT topic, output, partition, generation, first_offset, next_offset FROM highwater.marks
      UNION ALL
      SELECT topic, output, partition, generation, first_offset, next_offset FROM highwater.former_marks) m
JOIN highwater.duplicates d ON d.topic = m.topic AND d.partition = m.partition AND d.generation = m.generation
 AND d."offset" >= m.first_offset AND d."offset" < m.next_offset
GROUP BY 1, 2, 3, 5
