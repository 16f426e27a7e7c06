-- Which version an output's offsets were looked up in, in order; of one topic or of all.
SELECT topic, output, partition, from_offset, reference, version
FROM highwater.reference_uses
WHERE $1::text IS NULL OR topic = $1
ORDER BY topic, output, partition, from_offset
