-- B-5: before offsets $4 of partitions $3 (a row of it for each that the output has), the highest event time, as the list of
-- the lake's files tells it, to borders of files, and the duplicates, which it has not. Not told ($5: the lake has not all that
-- the output took) where it does not hold all of the offsets.
SELECT m.partition,
       NOT $5::boolean AND l.partition IS NOT NULL AND l.first_offset <= m.first_offset AND l.lost = 0
           AND l.generation = m.generation AND l.next_offset >= least(w.before_offset, m.next_offset),
       greatest(f.event_time, d.event_time)
FROM highwater.marks m
JOIN unnest($3::integer[], $4::bigint[]) AS w (partition, before_offset) ON w.partition = m.partition
LEFT JOIN highwater.marks l ON l.topic = m.topic AND l.output = 'lake' AND l.partition = m.partition
LEFT JOIN LATERAL (SELECT max(f.event_time_max) AS event_time
                   FROM highwater.lake_file_ranges r JOIN highwater.lake_files f USING (path)
                   WHERE r.topic = m.topic AND r.partition = m.partition AND r.generation = m.generation
                     AND r.from_offset < w.before_offset) f ON true
LEFT JOIN LATERAL (SELECT max(d.event_time) AS event_time FROM highwater.duplicates d
                   WHERE d.topic = m.topic AND d.partition = m.partition AND d.generation = m.generation
                     AND d."offset" < w.before_offset) d ON true
WHERE m.topic = $1 AND m.output = $2
ORDER BY m.partition
