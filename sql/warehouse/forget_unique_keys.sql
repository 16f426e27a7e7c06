-- Batches of which every key is forgotten, a limited number at a time. The last one stays: its number must not be given
-- again. Who removes the same at the same time is not waited for.
DELETE FROM highwater.unique_keys k
USING highwater.marks m
CROSS JOIN LATERAL (
    SELECT o.number FROM highwater.unique_keys o
    WHERE o.topic = m.topic AND o.partition = m.partition AND o.forget_at <= m.event_time_max
      AND o.number < (SELECT max(l.number) FROM highwater.unique_keys l WHERE l.topic = m.topic)
    ORDER BY o.forget_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED) gone
WHERE m.topic = $1 AND m.output = 'dead_letters' AND k.topic = m.topic AND k.number = gone.number
