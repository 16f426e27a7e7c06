-- Z-2: the files written anew stand in the manifest from here on, as files of cuts.
INSERT INTO highwater.lake_files (path, topic, upload, parts, bytes, rows, checksum, event_time_min, event_time_max,
                                  schema, sequence, origin, committed_at, rewrite)
SELECT path, topic, upload, parts, bytes, rows, checksum, event_time_min, event_time_max, schema, sequence, 'cut', now(), $2
FROM highwater.lake_rewrite_files WHERE topic = $1
