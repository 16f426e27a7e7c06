-- W-4: written before the upload's first part.
INSERT INTO highwater.lake_uploads (upload, topic, path, partition, epoch, noted_at)
VALUES ($1, $2, $3, $4, $5, now())
ON CONFLICT (upload) DO UPDATE
SET topic = excluded.topic, path = excluded.path, partition = excluded.partition, epoch = excluded.epoch
