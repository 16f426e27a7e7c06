-- G-2: new totals from the new log's offsets on. Epoch and number go on, so that old owners stay fenced and no
-- file's name recurs; event time goes on, also as the clock has moved it, so that a window which was final stays final (E-3).
UPDATE highwater.marks m
SET first_offset = w.first_offset, next_offset = w.first_offset, generation = w.generation,
    topic_id = w.topic_id, epoch = m.epoch + 1,
    event_time_max = coalesce(m.event_time_max,
                              (SELECT max(a.event_time) FROM highwater.idle_advances a
                               WHERE a.topic = m.topic AND a.partition = m.partition AND m.output <> 'lake'
                                 AND a.generation = m.generation AND a.before_offset <= m.next_offset)),
    accepted = 0, filtered = 0, late = 0, dead = 0, absent = 0, duplicate = 0, lost = 0
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::integer[], $6::text[])
     AS w (output, partition, first_offset, generation, topic_id)
WHERE m.topic = $1 AND m.output = w.output AND m.partition = w.partition AND m.generation < w.generation
