-- W-4: noted, and claimed by nobody any more: they go to the notes that no cut can claim, whose uploads any process aborts.
WITH gone AS (DELETE FROM highwater.lake_rewrite_uploads WHERE topic = $1 RETURNING upload, topic, path, partition)
INSERT INTO highwater.lake_uploads (upload, topic, path, partition, epoch, noted_at)
SELECT upload, topic, path, partition, -1, now() FROM gone
