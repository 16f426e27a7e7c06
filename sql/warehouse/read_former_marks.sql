-- Totals of generations that are over, in the shape of `read_marks`.
SELECT topic, output, partition, first_offset, next_offset, epoch, event_time_max,
       accepted, filtered, late, dead, absent, duplicate, lost, sequence, owner, committed_at, generation, topic_id
FROM highwater.former_marks
ORDER BY topic, output, partition, generation
