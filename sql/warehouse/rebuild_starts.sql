-- B-5: before these offsets no partition has a record of this event time or later ($4: the lake has not all that the output
-- took). Told by the list of the lake's files, and by the duplicates, which it has not; where they cannot tell, the output's
-- own beginning.
SELECT m.partition,
       CASE WHEN $4::boolean OR l.partition IS NULL OR l.first_offset > m.first_offset OR l.lost > 0
                 OR l.generation <> m.generation THEN m.first_offset
            ELSE greatest(m.first_offset, least(m.next_offset, l.next_offset, f.from_offset, d.from_offset)) END
FROM highwater.marks m
LEFT JOIN highwater.marks l ON l.topic = m.topic AND l.output = 'lake' AND l.partition = m.partition
LEFT JOIN (SELECT r.partition, r.generation, min(r.from_offset) AS from_offset
           FROM highwater.lake_files f JOIN highwater.lake_file_ranges r USING (path)
           WHERE f.topic = $1 AND f.event_time_max >= $3
           GROUP BY r.partition, r.generation) f ON f.partition = m.partition AND f.generation = m.generation
LEFT JOIN (SELECT partition, generation, min("offset") AS from_offset
           FROM highwater.duplicates WHERE topic = $1 AND event_time >= $3
           GROUP BY partition, generation) d ON d.partition = m.partition AND d.generation = m.generation
WHERE m.topic = $1 AND m.output = $2
ORDER BY m.partition
