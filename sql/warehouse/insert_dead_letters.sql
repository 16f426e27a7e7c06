-- I-3: the record of a refusal, once per generation. The lanes of a topic refuse a record each in its own time, and only
-- that of the tables has its bytes: whichever comes second finds the letter there. Who refuses it is locked by the cut.
INSERT INTO highwater.dead_letters AS there (output, topic, partition, "offset", "timestamp", class, column_name,
                                             reason, key, value, headers, raw, stored_at, generation)
SELECT d.output, $1, d.partition, d.record_offset, d.record_timestamp, d.class, d.column_name,
       d.reason, d.key, d.value, d.headers, d.raw, now(), m.generation
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[],
            $8::text[], $9::bytea[], $10::bytea[], $11::jsonb[], $12::boolean[], $13::text[])
     AS d (output, partition, record_offset, record_timestamp, class, column_name, reason, key, value, headers, raw,
           refused_by)
JOIN highwater.marks m ON m.topic = $1 AND m.output = d.refused_by AND m.partition = d.partition
ON CONFLICT (topic, partition, "offset", output, generation) DO UPDATE
SET key = excluded.key, value = excluded.value, headers = excluded.headers, raw = true
WHERE excluded.raw AND NOT there.raw
