-- B-1, G-3: a rebuild begins where the live output began; of some windows only (B-5), and where there is none (B-7), at the
-- offsets given, in the generation and of the topic of what it follows. Partitions that were taken up since follow.
INSERT INTO highwater.marks (output, topic, partition, first_offset, next_offset, epoch, owner, taken_at,
                             topic_id, generation)
SELECT $3, m.topic, m.partition, coalesce(w.from_offset, m.first_offset), coalesce(w.from_offset, m.first_offset), 0, $4,
       now(), m.topic_id, m.generation
FROM highwater.marks m
LEFT JOIN unnest($5::integer[], $6::bigint[]) AS w (partition, from_offset) ON w.partition = m.partition
WHERE m.topic = $1 AND m.output = $2
ORDER BY m.partition
ON CONFLICT DO NOTHING
