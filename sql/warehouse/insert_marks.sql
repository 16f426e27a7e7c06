-- I-1: a new mark begins at the oldest offset that Kafka has. Epoch 0 is nobody's: `bump_epochs` follows
-- in the same transaction. Sorted, so that two processes insert in the same order (W-2).
INSERT INTO highwater.marks (output, topic, partition, first_offset, next_offset, epoch, owner, taken_at)
SELECT o.output, $1, p.partition, p.oldest, p.oldest, 0, $5, now()
FROM unnest($2::text[]) AS o (output)
CROSS JOIN unnest($3::integer[], $4::bigint[]) AS p (partition, oldest)
ORDER BY o.output COLLATE "C", p.partition
ON CONFLICT DO NOTHING
