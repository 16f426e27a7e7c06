-- X-1: a table of the source is met. What a person accepted stays so; what stood in the way and does not any more
-- (the topic file was mended) is known, and the other way round.
INSERT INTO highwater.upstream_versions AS v (topic, version, columns, verdict, diff, partition, "offset", met_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, now())
ON CONFLICT (topic, version) DO UPDATE SET verdict = excluded.verdict, diff = excluded.diff
WHERE v.verdict <> 'accepted' AND v.verdict <> excluded.verdict
