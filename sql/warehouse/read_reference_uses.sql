-- Which version an output's offsets were looked up in, in order.
SELECT topic, output, partition, from_offset, reference, version
FROM highwater.reference_uses
ORDER BY topic, output, partition, from_offset
