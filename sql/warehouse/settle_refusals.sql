-- I-3: the output has taken the record. Kept for `verify --deep`, with the watermark that it was judged by.
UPDATE highwater.refusals r SET retried_at = now()
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::text[]) AS w (output, partition, record_offset, letter)
JOIN highwater.marks m ON m.topic = $1 AND m.output = w.output AND m.partition = w.partition
WHERE r.topic = $1 AND r.output = w.output AND r.partition = w.partition AND r."offset" = w.record_offset
  AND r.letter = w.letter AND r.generation = m.generation AND r.retried_at IS NULL
