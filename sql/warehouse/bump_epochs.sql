-- W-1: from here on a cut of the former owner moves no mark, and so commits nothing. Runs after
-- `lock_lane` as a statement of its own: its snapshot has what the awaited commits wrote.
UPDATE highwater.marks
SET epoch = epoch + 1, owner = $4, taken_at = now()
WHERE topic = $1 AND partition = ANY ($2::integer[]) AND (output = 'lake') = $3
RETURNING output, partition, first_offset, next_offset, epoch, event_time_max,
          accepted, filtered, late, dead, absent, duplicate, sequence
