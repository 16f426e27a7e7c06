-- W-4: a cut commits a file only by removing its note, and only a note that names a mark which this cut
-- moves. The caller counts the rows: a missing note means that the upload was given up already.
DELETE FROM highwater.lake_uploads u
USING unnest($3::integer[], $4::bigint[]) AS w (partition, epoch)
WHERE u.topic = $1 AND u.upload = ANY ($2::text[]) AND u.partition = w.partition AND u.epoch = w.epoch
