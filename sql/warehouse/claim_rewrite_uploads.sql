-- W-4: a piece counts only by removing its files' notes. The caller counts the rows.
DELETE FROM highwater.lake_rewrite_uploads WHERE topic = $1 AND epoch = $2 AND upload = ANY ($3::text[])
