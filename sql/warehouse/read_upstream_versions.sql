-- X-1: the tables that sources have had; of one topic or of all.
SELECT topic, version, columns, verdict, diff, partition, "offset"
FROM highwater.upstream_versions
WHERE topic = $1 OR $1 IS NULL
ORDER BY topic, met_at, version
