-- Letters that both have say what the rebuild's say; those are gone then.
WITH mine AS (
    DELETE FROM highwater.dead_letters d WHERE d.topic = $1 AND d.output = $3
    RETURNING d.partition, d."offset", d.generation, d.class, d.column_name, d.reason
)
UPDATE highwater.dead_letters d SET class = m.class, column_name = m.column_name, reason = m.reason
FROM mine m
WHERE d.topic = $1 AND d.output = $2 AND d.partition = m.partition AND d."offset" = m."offset"
  AND d.generation = m.generation
  AND (d.class, coalesce(d.column_name, ''), d.reason) <> (m.class, coalesce(m.column_name, ''), m.reason)
