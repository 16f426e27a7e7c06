-- X-2: from here on the partition's records come of this table.
INSERT INTO highwater.upstream_places (topic, partition, version, from_offset)
VALUES ($1, $2, $3, $4)
ON CONFLICT (topic, partition) DO UPDATE SET version = excluded.version, from_offset = excluded.from_offset
