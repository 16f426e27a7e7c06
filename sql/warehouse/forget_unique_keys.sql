-- Keys that their partition's event time has passed, a limited number at a time. What a cut is just taking again is
-- skipped, so this waits for nobody; what was taken again meanwhile no longer fits the condition.
DELETE FROM highwater.unique_keys k
USING highwater.marks m
CROSS JOIN LATERAL (
    SELECT o.key FROM highwater.unique_keys o
    WHERE o.topic = m.topic AND o.partition = m.partition AND o.forget_at <= m.event_time_max
    ORDER BY o.forget_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED) gone
WHERE m.topic = $1 AND m.output = 'dead_letters' AND k.topic = m.topic AND k.key = gone.key
