-- Committed, so they count; not completed, so no reader sees them yet. Anybody may complete them.
SELECT path, upload, bytes
FROM highwater.lake_files
WHERE topic = $1 AND completed_at IS NULL
ORDER BY sequence, path
