-- W-1, I-2, G-3: a mark moves only from where the cut begins, only at the owner's epoch, and only while
-- Kafka says that the topic is the one the mark is of (null: it has no ids). The caller counts the
-- rows: one fewer than it asked for, and the whole transaction is rolled back. A statement of its own after
-- `lock_marks`: its snapshot is newer than the locks, so it judges the rows as they are.
UPDATE highwater.marks m
SET next_offset    = w.to_offset,
    event_time_max = greatest(m.event_time_max, w.event_time_max),
    event_time_at  = CASE WHEN w.event_time_max > coalesce(m.event_time_max, '-infinity') THEN now()
                          ELSE m.event_time_at END,
    accepted       = m.accepted + w.accepted,
    filtered       = m.filtered + w.filtered,
    late           = m.late + w.late,
    dead           = m.dead + w.dead,
    absent         = m.absent + w.absent,
    duplicate      = m.duplicate + w.duplicate,
    sequence       = w.sequence,
    committed_at   = now()
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[])
     AS w (output, partition, from_offset, to_offset, epoch, event_time_max,
           accepted, filtered, late, dead, absent, duplicate, sequence)
WHERE m.topic = $1 AND m.output = w.output AND m.partition = w.partition
  AND m.next_offset = w.from_offset AND m.epoch = w.epoch
  AND coalesce(m.topic_id = $15, true)
