-- W-2: the marks of one cut, locked in sorted order, as they are now: what a refusal reports as found.
SELECT m.output, m.partition, m.next_offset, m.epoch, m.topic_id
FROM highwater.marks m
JOIN unnest($2::text[], $3::integer[]) AS w (output, partition)
  ON m.output = w.output AND m.partition = w.partition
WHERE m.topic = $1
ORDER BY m.output, m.partition
FOR UPDATE OF m
