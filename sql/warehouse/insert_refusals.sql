-- I-3: each output refuses a record once per generation; the primary key refuses a second. Its mark is locked.
INSERT INTO highwater.refusals (topic, output, partition, "offset", letter, by_decode, event_time_max, generation)
SELECT $1, r.output, r.partition, r.record_offset, r.letter, r.letter = 'dead_letters', r.event_time_max, m.generation
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::text[], $6::timestamptz[])
     AS r (output, partition, record_offset, letter, event_time_max)
JOIN highwater.marks m ON m.topic = $1 AND m.output = r.output AND m.partition = r.partition
