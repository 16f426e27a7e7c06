-- I-3: each refused record once per generation; the primary key refuses a second. Its mark is locked, so the
-- generation is the cut's.
INSERT INTO highwater.dead_letters (output, topic, partition, "offset", "timestamp", class, column_name,
                                    reason, key, value, headers, stored_at, generation)
SELECT d.output, $1, d.partition, d.record_offset, d.record_timestamp, d.class, d.column_name,
       d.reason, d.key, d.value, d.headers, now(), m.generation
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[],
            $8::text[], $9::bytea[], $10::bytea[], $11::jsonb[])
     AS d (output, partition, record_offset, record_timestamp, class, column_name, reason, key, value, headers)
JOIN highwater.marks m ON m.topic = $1 AND m.output = d.output AND m.partition = d.partition
