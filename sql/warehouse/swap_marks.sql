-- B-3: the live marks get the rebuild's totals; both cover the same offsets. event_time_max as the rebuild came to it,
-- with what stands recorded up to the mark (E-4). The owner goes on undisturbed where what it holds in memory is
-- what stands here; else ($4, or another event time) it is fenced and takes anew.
UPDATE highwater.marks l
SET accepted = s.accepted, filtered = s.filtered, late = s.late, dead = s.dead, absent = s.absent,
    duplicate = s.duplicate, lost = s.lost, event_time_max = s.event_time_max,
    epoch = l.epoch + CASE WHEN $4::boolean OR l.event_time_max IS DISTINCT FROM s.event_time_max THEN 1 ELSE 0 END
FROM (SELECT m.*, greatest(m.event_time_max, (SELECT max(a.event_time) FROM highwater.idle_advances a
                                              WHERE a.topic = m.topic AND a.partition = m.partition
                                                AND a.generation = m.generation
                                                AND a.before_offset <= m.next_offset)) AS come
      FROM highwater.marks m WHERE m.topic = $1 AND m.output = $3) c
CROSS JOIN LATERAL (SELECT c.partition, c.next_offset, c.accepted, c.filtered, c.late, c.dead, c.absent, c.duplicate,
                           c.lost, c.come AS event_time_max) s
WHERE l.topic = $1 AND l.output = $2 AND l.partition = s.partition AND l.next_offset = s.next_offset
