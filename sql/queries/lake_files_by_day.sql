-- Files, rows and bytes of the lake by topic and day of committing: many small files of a day ask for a larger roll.
SELECT f.topic, f.committed_at::date AS day, count(*) AS files, sum(f.rows) AS rows,
       pg_size_pretty(sum(f.bytes)) AS size, pg_size_pretty(avg(f.bytes)::bigint) AS mean_file,
       count(*) FILTER (WHERE f.completed_at IS NULL) AS unfinished
FROM highwater.lake_files f
GROUP BY f.topic, day
ORDER BY day DESC, f.topic
