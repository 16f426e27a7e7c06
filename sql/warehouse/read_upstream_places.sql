-- X-2: the table that the records of each partition came of last.
SELECT p.partition, p.from_offset, v.columns
FROM highwater.upstream_places p JOIN highwater.upstream_versions v USING (topic, version)
WHERE p.topic = $1
ORDER BY p.partition
