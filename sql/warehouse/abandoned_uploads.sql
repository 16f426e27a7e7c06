-- W-4: uploads that no cut can ever commit, because the epoch of their partition has moved on.
-- One statement, one snapshot: see `Warehouse::abandoned` for why no note read here can still be claimed.
SELECT u.path, u.upload
FROM highwater.lake_uploads u
JOIN highwater.marks m ON m.topic = u.topic AND m.partition = u.partition AND m.output = 'lake'
WHERE u.topic = $1 AND u.epoch < m.epoch
ORDER BY u.path, u.upload
