-- The newest first; each filter may be absent.
SELECT topic, output, partition, "offset", "timestamp", class, column_name, reason, raw, key, value,
       headers::text, stored_at, forwarded_at, generation
FROM highwater.dead_letters
WHERE ($1::text[] IS NULL OR topic = ANY ($1)) AND ($2::text IS NULL OR output = $2)
  AND ($3::text IS NULL OR class = $3)
ORDER BY stored_at DESC, topic, partition, "offset" DESC, output
LIMIT $4
