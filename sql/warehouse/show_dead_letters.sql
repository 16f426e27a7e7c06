-- Everything of one record: at most one letter per output and generation.
SELECT topic, output, partition, "offset", "timestamp", class, column_name, reason, raw, key, value,
       headers::text, stored_at, forwarded_at, generation
FROM highwater.dead_letters
WHERE topic = $1 AND partition = $2 AND "offset" = $3
ORDER BY generation, output
