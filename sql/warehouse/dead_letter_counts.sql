-- How many letters there are, of whom and why; each filter may be absent.
SELECT topic, output, class, count(*), max(stored_at)
FROM highwater.dead_letters
WHERE ($1::text[] IS NULL OR topic = ANY ($1)) AND ($2::text IS NULL OR output = $2)
  AND ($3::text IS NULL OR class = $3)
GROUP BY topic, output, class
ORDER BY topic, output, class
