-- I-3: an output that refuses what others take now keeps the record in a letter of its own, which says why.
WITH moved AS (
    UPDATE highwater.refusals r SET letter = r.output
    FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::text[]) AS w (output, partition, record_offset, letter)
    JOIN highwater.marks m ON m.topic = $1 AND m.output = w.output AND m.partition = w.partition
    WHERE r.topic = $1 AND r.output = w.output AND r.partition = w.partition AND r."offset" = w.record_offset
      AND r.letter = w.letter AND r.generation = m.generation AND r.retried_at IS NULL
    RETURNING r.output, r.partition, r."offset", r.generation, w.letter
)
INSERT INTO highwater.dead_letters (output, topic, partition, "offset", "timestamp", class, column_name, reason,
                                    key, value, headers, raw, stored_at, generation)
SELECT m.output, d.topic, d.partition, d."offset", d."timestamp", w.class, NULL, w.reason,
       d.key, d.value, d.headers, d.raw, now(), d.generation
FROM moved m
JOIN unnest($2::text[], $3::integer[], $4::bigint[], $6::text[], $7::text[])
     AS w (output, partition, record_offset, class, reason)
  ON w.output = m.output AND w.partition = m.partition AND w.record_offset = m."offset"
JOIN highwater.dead_letters d
  ON d.topic = $1 AND d.partition = m.partition AND d."offset" = m."offset" AND d.output = m.letter
 AND d.generation = m.generation
