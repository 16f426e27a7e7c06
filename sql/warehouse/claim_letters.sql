-- I-3: a retry applies a letter only by removing it, and only when nobody counts it as dead any more. The caller
-- counts the rows: one fewer than it asked for, and everything is rolled back.
WITH wanted AS (
    SELECT d.partition, d."offset", d.output, d.generation
    FROM highwater.dead_letters d
    JOIN unnest($2::text[], $3::integer[], $4::bigint[]) AS w (output, partition, record_offset)
      ON d.output = w.output AND d.partition = w.partition AND d."offset" = w.record_offset
    JOIN highwater.marks m ON m.topic = d.topic AND m.output = 'dead_letters' AND m.partition = d.partition
                          AND m.generation = d.generation
    WHERE d.topic = $1
    ORDER BY d.partition, d."offset", d.output
    FOR UPDATE OF d
)
DELETE FROM highwater.dead_letters d
USING wanted w
WHERE d.topic = $1 AND d.partition = w.partition AND d."offset" = w."offset" AND d.output = w.output
  AND d.generation = w.generation
  AND NOT EXISTS (SELECT FROM highwater.refusals r
                  WHERE r.topic = d.topic AND r.partition = d.partition AND r."offset" = d."offset"
                    AND r.letter = d.output AND r.generation = d.generation AND r.retried_at IS NULL)
RETURNING d.output, d.partition, d."offset"
