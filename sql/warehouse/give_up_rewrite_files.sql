-- W-4: the same for what is uploaded whole, of a rewrite that is dropped.
WITH gone AS (DELETE FROM highwater.lake_rewrite_files WHERE topic = $1 RETURNING upload, topic, path, partition)
INSERT INTO highwater.lake_uploads (upload, topic, path, partition, epoch, noted_at)
SELECT upload, topic, path, partition, -1, now() FROM gone
