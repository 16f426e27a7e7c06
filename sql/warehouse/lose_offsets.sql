-- G-2, I-2: the fate of offsets that are accepted as gone. The owner is fenced and takes anew.
UPDATE highwater.marks m
SET next_offset = w.to_offset, lost = m.lost + (w.to_offset - w.from_offset), epoch = m.epoch + 1
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[])
     AS w (output, partition, from_offset, to_offset)
WHERE m.topic = $1 AND m.output = w.output AND m.partition = w.partition AND m.next_offset = w.from_offset
