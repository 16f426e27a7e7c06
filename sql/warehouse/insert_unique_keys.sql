-- U-1: a key is taken when nobody has it, or when the one that stands there is forgotten: its partition's event time
-- (after `move_marks` of this transaction) has come to forget_at. The caller counts the rows: one fewer than it gave
-- means that another process accepted a key meanwhile, and the cut is rolled back. Sorted by the caller (W-2).
INSERT INTO highwater.unique_keys AS k (topic, key, partition, "offset", forget_at)
SELECT $1, n.key, n.partition, n.record_offset, n.forget_at
FROM unnest($2::uuid[], $3::integer[], $4::bigint[], $5::timestamptz[]) AS n (key, partition, record_offset, forget_at)
ON CONFLICT (topic, key) DO UPDATE
SET partition = excluded.partition, "offset" = excluded."offset", forget_at = excluded.forget_at
WHERE EXISTS (SELECT FROM highwater.marks m
              WHERE m.topic = k.topic AND m.output = 'dead_letters' AND m.partition = k.partition
                AND m.event_time_max >= k.forget_at)
