-- X-2: from here on the partition's records come of this table. Whoever reads again what came before moves nothing.
INSERT INTO highwater.upstream_places AS p (topic, partition, version, from_offset)
VALUES ($1, $2, $3, $4)
ON CONFLICT (topic, partition) DO UPDATE SET version = excluded.version, from_offset = excluded.from_offset
WHERE p.from_offset <= excluded.from_offset
