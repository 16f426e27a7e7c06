-- Z-2: a swap changes no row that the manifest counts. Partitions where the files that go hold other numbers of rows than
-- those that come, or rows of without; and how many of them readers do not see yet.
WITH old AS (
    SELECT DISTINCT r.path
    FROM highwater.lake_file_ranges r
    JOIN highwater.lake_rewrite_spans s ON s.topic = r.topic AND s.partition = r.partition AND s.generation = r.generation
    WHERE r.topic = $1 AND r.from_offset < s.to_offset AND r.to_offset > s.from_offset
)
SELECT partition, coalesce(h.rows, 0)::bigint, coalesce(n.rows, 0)::bigint, coalesce(h.beyond, false),
       coalesce(h.unfinished, 0)::bigint
FROM (SELECT r.partition, sum(r.rows) AS rows,
             bool_or(s.partition IS NULL OR r.from_offset < s.from_offset OR r.to_offset > s.to_offset) AS beyond,
             count(*) FILTER (WHERE f.completed_at IS NULL) AS unfinished
      FROM old
      JOIN highwater.lake_files f USING (path)
      JOIN highwater.lake_file_ranges r USING (path)
      LEFT JOIN highwater.lake_rewrite_spans s
             ON s.topic = r.topic AND s.partition = r.partition AND s.generation = r.generation
      GROUP BY r.partition) h
FULL JOIN (SELECT f.partition, sum(f.rows) AS rows FROM highwater.lake_rewrite_files f WHERE f.topic = $1
           GROUP BY f.partition) n USING (partition)
WHERE h.rows IS DISTINCT FROM n.rows OR h.beyond OR h.unfinished > 0
ORDER BY partition
