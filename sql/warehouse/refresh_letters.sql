-- What is still refused says why today.
UPDATE highwater.dead_letters d SET class = w.class, column_name = w.column_name, reason = w.reason
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::text[], $6::text[], $7::text[])
     AS w (output, partition, record_offset, class, column_name, reason)
JOIN highwater.marks m ON m.topic = $1 AND m.output = 'dead_letters' AND m.partition = w.partition
WHERE d.topic = $1 AND d.partition = w.partition AND d."offset" = w.record_offset AND d.output = w.output
  AND d.generation = m.generation
  AND (d.class, coalesce(d.column_name, ''), d.reason) <> (w.class, coalesce(w.column_name, ''), w.reason)
