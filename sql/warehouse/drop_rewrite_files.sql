-- They stand in the manifest.
DELETE FROM highwater.lake_rewrite_files WHERE topic = $1
