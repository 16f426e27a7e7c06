-- After Kafka has confirmed them. In order of place, as a retry locks them (W-2).
WITH sent AS (
    SELECT d.partition, d."offset", d.output, d.generation
    FROM highwater.dead_letters d
    JOIN unnest($2::text[], $3::integer[], $4::bigint[], $5::integer[])
         AS w (output, partition, record_offset, generation)
      ON d.output = w.output AND d.partition = w.partition AND d."offset" = w.record_offset
     AND d.generation = w.generation
    WHERE d.topic = $1
    ORDER BY d.partition, d."offset", d.output
    FOR UPDATE OF d
)
UPDATE highwater.dead_letters d SET forwarded_at = now()
FROM sent s
WHERE d.topic = $1 AND d.partition = s.partition AND d."offset" = s."offset" AND d.output = s.output
  AND d.generation = s.generation
