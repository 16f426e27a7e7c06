-- After the store has said that they are gone.
DELETE FROM highwater.lake_retired_files WHERE path = ANY ($1::text[])
