-- G-2: the totals of a generation that ends.
INSERT INTO highwater.former_marks (output, topic, partition, generation, topic_id, first_offset, next_offset,
                                    epoch, event_time_max, accepted, filtered, late, dead, absent, duplicate, lost,
                                    sequence, owner, committed_at, ended_at)
SELECT m.output, m.topic, m.partition, m.generation, m.topic_id, m.first_offset, m.next_offset,
       m.epoch, m.event_time_max, m.accepted, m.filtered, m.late, m.dead, m.absent, m.duplicate, m.lost,
       m.sequence, m.owner, m.committed_at, now()
FROM highwater.marks m
JOIN unnest($2::text[], $3::integer[]) AS w (output, partition)
  ON m.output = w.output AND m.partition = w.partition
WHERE m.topic = $1
