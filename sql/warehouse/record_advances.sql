-- E-4: recorded only while no output has judged a record at or above the place. The outputs of this cut ($2)
-- have not, as `commit` sees to; the others are looked at here. The caller counts the rows.
INSERT INTO highwater.idle_advances AS a (topic, partition, generation, before_offset, event_time, recorded_at)
SELECT $1, w.partition, l.generation, w.before_offset, w.event_time, now()
FROM unnest($3::integer[], $4::bigint[], $5::timestamptz[]) AS w (partition, before_offset, event_time)
JOIN highwater.marks l ON l.topic = $1 AND l.output = 'dead_letters' AND l.partition = w.partition
WHERE NOT EXISTS (SELECT FROM highwater.marks m
                  WHERE m.topic = $1 AND m.partition = w.partition AND m.output <> 'lake'
                    AND m.output <> ALL ($2::text[]) AND m.next_offset > w.before_offset)
ON CONFLICT (topic, partition, generation, before_offset) DO UPDATE
SET event_time = greatest(a.event_time, excluded.event_time), recorded_at = now()
