-- W-4: written before the upload's first part, by the process that goes on with the rewrite and by no other.
INSERT INTO highwater.lake_rewrite_uploads (upload, topic, path, partition, epoch)
SELECT $1, w.topic, $3, $4, w.epoch
FROM (SELECT topic, epoch FROM highwater.lake_rewrites WHERE topic = $2 AND epoch = $5 FOR SHARE) w
ON CONFLICT (upload) DO UPDATE SET path = excluded.path
