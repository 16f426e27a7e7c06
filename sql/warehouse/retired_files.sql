-- Z-3: nobody needs them any more: their grace is over, and all that replace them are there. Of a name that the manifest
-- has, none.
SELECT r.path, r.bytes, extract(epoch FROM now() - r.retired_at)::bigint
FROM highwater.lake_retired_files r
WHERE r.topic = $1 AND r.remove_after <= now()
  AND NOT EXISTS (SELECT FROM highwater.lake_files f
                  WHERE f.topic = r.topic AND f.rewrite = r.rewrite AND f.completed_at IS NULL)
  AND NOT EXISTS (SELECT FROM highwater.lake_files f WHERE f.path = r.path)
ORDER BY r.path
