-- X-1: a person accepts what stands in the way.
UPDATE highwater.upstream_versions
SET verdict = 'accepted', accepted_at = now(), accepted_by = session_user || ' at ' || $2
WHERE topic = $1 AND verdict = 'refused'
RETURNING version, diff
