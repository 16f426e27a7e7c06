-- W-4: every upload that is or may be committed and has not got its name yet. One statement, one snapshot: a
-- commit turns the note into the file, so read apart an upload could be missed between the two.
SELECT upload FROM highwater.lake_uploads
UNION ALL
SELECT upload FROM highwater.lake_files WHERE completed_at IS NULL
UNION ALL
SELECT upload FROM highwater.lake_rewrite_uploads
UNION ALL
SELECT upload FROM highwater.lake_rewrite_files
