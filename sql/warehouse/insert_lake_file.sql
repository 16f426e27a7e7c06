-- A lake file is known from the moment its offsets are passed: same transaction as its marks.
INSERT INTO highwater.lake_files (path, topic, upload, parts, bytes, rows, checksum, event_time_min,
                                  event_time_max, schema, sequence, origin, committed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now())
