-- I-3: the record of a refusal, once. The lanes of a topic refuse a record each in its own time, and only that of
-- the tables has its bytes: whichever comes second finds the letter there.
INSERT INTO highwater.dead_letters AS there (output, topic, partition, "offset", "timestamp", class, column_name,
                                             reason, key, value, headers, raw, stored_at)
SELECT d.output, $1, d.partition, d.record_offset, d.record_timestamp, d.class, d.column_name,
       d.reason, d.key, d.value, d.headers, d.raw, now()
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[],
            $8::text[], $9::bytea[], $10::bytea[], $11::jsonb[], $12::boolean[])
     AS d (output, partition, record_offset, record_timestamp, class, column_name, reason, key, value, headers, raw)
ON CONFLICT (topic, partition, "offset", output) DO UPDATE
SET key = excluded.key, value = excluded.value, headers = excluded.headers, raw = true
WHERE excluded.raw AND NOT there.raw
