-- Files of before a swap that are still there, of all topics.
SELECT path FROM highwater.lake_retired_files
