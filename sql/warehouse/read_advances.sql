-- E-4: what moved event time without a record at or above the lowest mark, and the furthest below it: a
-- mark that was made a moment ago has seen none of those.
WITH lowest AS (
    SELECT m.partition, max(m.generation) AS generation, min(m.next_offset) AS next_offset
    FROM highwater.marks m
    WHERE m.topic = $1 AND m.partition = ANY ($2::integer[]) AND m.output = ANY ($3::text[])
    GROUP BY m.partition)
SELECT a.partition, a.before_offset, a.event_time
FROM highwater.idle_advances a JOIN lowest l ON l.partition = a.partition AND l.generation = a.generation
WHERE a.topic = $1 AND a.before_offset >= l.next_offset
UNION ALL
SELECT a.partition, max(a.before_offset), max(a.event_time)
FROM highwater.idle_advances a JOIN lowest l ON l.partition = a.partition AND l.generation = a.generation
WHERE a.topic = $1 AND a.before_offset < l.next_offset
GROUP BY a.partition
ORDER BY 1, 2
