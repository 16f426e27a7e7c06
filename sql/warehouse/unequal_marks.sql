-- B-3: partitions where the rebuild does not stand where the live output stands. None may be there. Of some windows only
-- ($4) it began later.
SELECT coalesce(l.partition, s.partition), l.next_offset, s.next_offset
FROM (SELECT * FROM highwater.marks WHERE topic = $1 AND output = $2) l
FULL JOIN (SELECT * FROM highwater.marks WHERE topic = $1 AND output = $3) s USING (partition)
WHERE (l.next_offset, l.generation) IS DISTINCT FROM (s.next_offset, s.generation)
   OR NOT $4::boolean AND l.first_offset <> s.first_offset
   OR l.topic_id IS DISTINCT FROM s.topic_id
ORDER BY 1
