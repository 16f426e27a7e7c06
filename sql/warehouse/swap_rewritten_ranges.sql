-- Z-2: with where their rows come from.
INSERT INTO highwater.lake_file_ranges (path, topic, partition, from_offset, to_offset, rows, extra_rows,
                                        generation)
SELECT f.path, f.topic, f.partition, f.from_offset, f.to_offset, f.rows, f.extra_rows, s.generation
FROM highwater.lake_rewrite_files f
JOIN highwater.lake_rewrite_spans s USING (topic, partition)
WHERE f.topic = $1
