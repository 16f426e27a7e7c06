-- The oldest that Kafka has not confirmed, in order, of partitions that this process holds; and how many there are.
-- Of what the lake refuses before the tables have come to it, the letter is not whole yet; those of
-- a rebuild wait for its swap.
SELECT d.topic, d.output, d.partition, d."offset", d."timestamp", d.class, d.column_name, d.reason, d.raw, d.key,
       d.value, d.headers::text, d.stored_at, d.forwarded_at, d.generation, count(*) OVER ()
FROM highwater.dead_letters d
JOIN highwater.marks m
  ON m.topic = d.topic AND m.partition = d.partition AND m.output = 'dead_letters'
 AND (d.generation < m.generation OR d."offset" < m.next_offset)
WHERE d.topic = $1 AND d.partition = ANY ($2::integer[]) AND d.forwarded_at IS NULL
  AND d.output NOT LIKE 'model:\_%'
ORDER BY d.partition, d.generation, d."offset", d.output
LIMIT $3
