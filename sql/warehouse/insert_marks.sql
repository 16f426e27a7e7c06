-- I-1: a new mark begins at the oldest offset that Kafka has, in the generation that its partition is in.
-- Epoch 0 is nobody's: `bump_epochs` follows in the same transaction. Sorted, so that two processes insert
-- in the same order (W-2).
INSERT INTO highwater.marks (output, topic, partition, first_offset, next_offset, epoch, owner, taken_at,
                             topic_id, generation)
SELECT o.output, $1, p.partition, p.oldest, p.oldest, 0, $5, now(), p.topic_id,
       coalesce((SELECT max(m.generation) FROM highwater.marks m
                 WHERE m.topic = $1 AND m.partition = p.partition), 1)
FROM unnest($2::text[]) AS o (output)
CROSS JOIN unnest($3::integer[], $4::bigint[], $6::text[]) AS p (partition, oldest, topic_id)
ORDER BY o.output COLLATE "C", p.partition
ON CONFLICT DO NOTHING
