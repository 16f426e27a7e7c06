-- The rewrite of a topic's lake, with its spans, and the id of the topic that each is of (G-3).
SELECT w.number, w.epoch, w.definition, w.owner, w.started_at, s.partition, s.generation, s.from_offset, s.next_offset,
       s.to_offset, m.topic_id, m.generation
FROM highwater.lake_rewrites w
JOIN highwater.lake_rewrite_spans s USING (topic)
LEFT JOIN highwater.marks m ON m.topic = w.topic AND m.output = 'lake' AND m.partition = s.partition
WHERE w.topic = $1
ORDER BY s.partition
