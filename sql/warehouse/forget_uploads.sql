-- After the store has said that these uploads are gone.
DELETE FROM highwater.lake_uploads WHERE upload = ANY ($1::text[])
