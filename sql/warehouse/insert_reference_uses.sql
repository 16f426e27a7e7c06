-- In the cut's transaction: a row only where the version is another one than before these offsets.
INSERT INTO highwater.reference_uses (output, topic, partition, from_offset, reference, version)
SELECT u.output, $1, u.partition, u.from_offset, u.reference, u.version
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::text[], $6::text[])
     AS u (output, partition, from_offset, reference, version)
WHERE u.version IS DISTINCT FROM (
    SELECT b.version FROM highwater.reference_uses b
    WHERE b.topic = $1 AND b.output = u.output AND b.partition = u.partition AND b.from_offset <= u.from_offset
    ORDER BY b.from_offset DESC LIMIT 1)
ORDER BY u.output COLLATE "C", u.partition
ON CONFLICT (topic, output, partition, from_offset) DO UPDATE
SET reference = excluded.reference, version = excluded.version
