-- N-5: the loads of a topic with their spans, in order.
SELECT l.number, l.begun_at, l.ended_at IS NOT NULL,
       array_remove(array_agg(s.partition ORDER BY s.partition), NULL),
       array_remove(array_agg(s.from_offset ORDER BY s.partition), NULL),
       array_remove(array_agg(coalesce(s.to_offset, s.from_offset) ORDER BY s.partition), NULL)
FROM highwater.loads l
LEFT JOIN highwater.load_spans s USING (topic, number)
WHERE l.topic = $1
GROUP BY l.number, l.begun_at, l.ended_at
ORDER BY l.number
