-- B-7: the marks of an output that was not there: those of its rebuild, event_time_max with what stands recorded up to the
-- mark (E-4). Whoever takes its partitions next goes on there.
INSERT INTO highwater.marks (output, topic, partition, first_offset, next_offset, epoch, event_time_max, event_time_at,
                             accepted, filtered, late, dead, absent, duplicate, lost, sequence, owner, taken_at,
                             committed_at, topic_id, generation)
SELECT $2, m.topic, m.partition, m.first_offset, m.next_offset, m.epoch,
       greatest(m.event_time_max, (SELECT max(a.event_time) FROM highwater.idle_advances a
                                   WHERE a.topic = m.topic AND a.partition = m.partition
                                     AND a.generation = m.generation AND a.before_offset <= m.next_offset)),
       m.event_time_at, m.accepted, m.filtered, m.late, m.dead, m.absent, m.duplicate, m.lost, m.sequence, m.owner,
       m.taken_at, m.committed_at, m.topic_id, m.generation
FROM highwater.marks m
WHERE m.topic = $1 AND m.output = $3
ORDER BY m.partition
