-- Whoever takes the lake asks first for what was committed and not completed: a handful among millions.
CREATE INDEX lake_files_unfinished ON highwater.lake_files (topic) WHERE completed_at IS NULL
