-- I-1, G-3: a new mark begins at the oldest offset that Kafka has, in the generation and of the topic that its
-- partition's marks are of: a topic made again stops a new output like the others. Epoch 0 is nobody's:
-- `bump_epochs` follows in the same transaction. Sorted, so that two processes insert in the same order (W-2).
INSERT INTO highwater.marks (output, topic, partition, first_offset, next_offset, epoch, owner, taken_at,
                             topic_id, generation)
SELECT o.output, $1, p.partition, p.oldest, p.oldest, 0, $5, now(),
       coalesce((SELECT m.topic_id FROM highwater.marks m
                 WHERE m.topic = $1 AND m.partition = p.partition AND m.topic_id IS NOT NULL
                 ORDER BY m.generation DESC LIMIT 1), p.topic_id),
       coalesce((SELECT max(m.generation) FROM highwater.marks m
                 WHERE m.topic = $1 AND m.partition = p.partition), 1)
FROM unnest($2::text[]) AS o (output)
CROSS JOIN unnest($3::integer[], $4::bigint[], $6::text[]) AS p (partition, oldest, topic_id)
ORDER BY o.output COLLATE "C", p.partition
ON CONFLICT DO NOTHING
