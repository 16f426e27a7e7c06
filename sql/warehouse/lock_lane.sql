-- W-2, W-3: waits until every commit in flight on these partitions has ended, row by row in sorted order.
-- The tables lane takes the marks of models that this process does not know, too: an older process with
-- another set of models is fenced as a whole. Rebuilds have owners of their own (B-2). What is read is final, so it can be held against Kafka (G-1).
SELECT output, partition, next_offset, topic_id
FROM highwater.marks
WHERE topic = $1 AND partition = ANY ($2::integer[]) AND (output = 'lake') = $3
  AND output NOT LIKE 'model:\_%'
ORDER BY output, partition
FOR UPDATE
