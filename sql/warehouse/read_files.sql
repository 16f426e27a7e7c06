-- The manifest, file by file in order of their cuts, with the ranges of each.
SELECT f.topic, f.path, f.bytes, f.rows, f.checksum, f.schema, f.sequence, f.completed_at IS NOT NULL,
       f.origin = 'retry',
       array_agg(r.partition ORDER BY r.partition),
       array_agg(r.from_offset ORDER BY r.partition),
       array_agg(r.to_offset ORDER BY r.partition),
       array_agg(r.rows ORDER BY r.partition),
       array_agg(r.generation ORDER BY r.partition),
       f.event_time_min, f.event_time_max,
       array_agg(r.extra_rows ORDER BY r.partition)
FROM highwater.lake_files f JOIN highwater.lake_file_ranges r USING (path)
GROUP BY f.path
ORDER BY f.topic, f.sequence, f.path
