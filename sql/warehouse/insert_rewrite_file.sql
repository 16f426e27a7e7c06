-- Z-1: written anew and whole, seen by nobody yet; in the transaction that moves the span's next offset.
INSERT INTO highwater.lake_rewrite_files (path, topic, upload, parts, bytes, rows, checksum, event_time_min,
                                          event_time_max, schema, sequence, partition, from_offset, to_offset,
                                          extra_rows)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
