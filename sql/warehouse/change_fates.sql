-- I-3: dead offsets get another fate. Totals do not depend on next_offset and epoch, so whoever owns the partition
-- goes on undisturbed; each_offset_has_one_fate refuses a sum that changes.
UPDATE highwater.marks m
SET accepted = m.accepted + w.accepted,
    filtered = m.filtered + w.filtered,
    late     = m.late + w.late,
    dead     = m.dead + w.still_dead - w.was_dead,
    duplicate = m.duplicate + w.duplicate
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
            $9::bigint[])
     AS w (output, partition, was_dead, accepted, filtered, late, still_dead, duplicate)
WHERE m.topic = $1 AND m.output = w.output AND m.partition = w.partition
