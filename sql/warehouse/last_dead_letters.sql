-- The newest first.
SELECT topic, output, partition, "offset", "timestamp", class, column_name, reason, key, value,
       headers::text, stored_at
FROM highwater.dead_letters
WHERE $1::text IS NULL OR topic = $1
ORDER BY stored_at DESC, topic, partition, "offset" DESC, output
LIMIT $2
