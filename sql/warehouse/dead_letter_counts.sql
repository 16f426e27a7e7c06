-- How many were refused, by whom and why; the sums are marks.dead.
SELECT topic, output, class, count(*), max(stored_at)
FROM highwater.dead_letters
WHERE $1::text IS NULL OR topic = $1
GROUP BY topic, output, class
ORDER BY topic, output, class
