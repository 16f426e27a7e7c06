-- W-1: from here on a cut of the former owner moves no mark, and so commits nothing. Runs after
-- `lock_lane` as a statement of its own: its snapshot has what the awaited commits wrote. A mark of before
-- the broker had ids (not of a rebuild's: B-2) gets its topic's; the caller gives none for a partition that cannot go on.
-- X-4: the last two tell the additions of the topic, which are recorded under the same locks.
UPDATE highwater.marks m
SET epoch = m.epoch + 1, owner = $4, taken_at = now(), topic_id = coalesce(m.topic_id, w.topic_id)
FROM unnest($2::integer[], $5::text[]) AS w (partition, topic_id)
WHERE m.topic = $1 AND m.partition = w.partition AND (m.output = 'lake') = $3
  AND m.output NOT LIKE 'model:\_%'
RETURNING m.output, m.partition, m.first_offset, m.next_offset, m.epoch, m.event_time_max,
          m.accepted, m.filtered, m.late, m.dead, m.absent, m.duplicate, m.lost, m.sequence,
          (SELECT count(*) FROM highwater.added_columns a WHERE a.topic = $1),
          (SELECT coalesce(sum(s.since), 0)::bigint FROM highwater.added_column_starts s WHERE s.topic = $1)
