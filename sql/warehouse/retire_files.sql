-- Z-3: the files that a swap replaces leave the manifest, and stay where they are until their grace is over.
WITH old AS (
    DELETE FROM highwater.lake_files f
    WHERE f.path IN (SELECT r.path
                     FROM highwater.lake_file_ranges r
                     JOIN highwater.lake_rewrite_spans s
                       ON s.topic = r.topic AND s.partition = r.partition AND s.generation = r.generation
                     WHERE r.topic = $1 AND r.from_offset < s.to_offset AND r.to_offset > s.from_offset)
    RETURNING f.path, f.topic, f.bytes, f.rows
)
INSERT INTO highwater.lake_retired_files (path, topic, bytes, rows, rewrite, retired_at, remove_after)
SELECT path, topic, bytes, rows, $2, now(), now() + $3::bigint * interval '1 second' FROM old
