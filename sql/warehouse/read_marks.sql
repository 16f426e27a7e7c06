-- Every mark, of one topic or of all.
SELECT topic, output, partition, first_offset, next_offset, epoch, event_time_max,
       accepted, filtered, late, dead, absent, duplicate, lost, sequence, owner, committed_at, generation, topic_id
FROM highwater.marks
WHERE $1::text IS NULL OR topic = $1
ORDER BY topic, output, partition
