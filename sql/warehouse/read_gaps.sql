-- What was accepted as gone, in order of offsets.
SELECT topic, output, partition, generation, from_offset, to_offset, reason, lost
FROM highwater.gaps
ORDER BY topic, output, partition, generation, from_offset
