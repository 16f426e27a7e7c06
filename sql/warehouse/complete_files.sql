-- Said once: the time of the first completion stays.
UPDATE highwater.lake_files SET completed_at = now() WHERE path = ANY ($1::text[]) AND completed_at IS NULL
