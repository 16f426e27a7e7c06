-- X-3: what was added to topics, in order, with the offset in each partition from which on it counts.
SELECT a.topic, a.number, a.column_name, a.field, a.type, a.was,
       coalesce(array_agg(s.partition ORDER BY s.partition) FILTER (WHERE s.partition IS NOT NULL), '{}'),
       coalesce(array_agg(s.since ORDER BY s.partition) FILTER (WHERE s.partition IS NOT NULL), '{}')
FROM highwater.added_columns a LEFT JOIN highwater.added_column_starts s USING (topic, number)
WHERE a.topic = $1 OR $1 IS NULL
GROUP BY a.topic, a.number
ORDER BY a.topic, a.number
