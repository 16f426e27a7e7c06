-- U-3: spans of a cut that the judge has not passed yet, or where the recorded duplicates are not those that the cut
-- left out. None may be there.
SELECT w.partition, j.next_offset, d.recorded
FROM unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[]) AS w (partition, from_offset, to_offset, duplicate)
LEFT JOIN highwater.marks j ON j.topic = $1 AND j.output = 'dead_letters' AND j.partition = w.partition
CROSS JOIN LATERAL (
    SELECT count(*) AS recorded FROM highwater.duplicates d
    WHERE d.topic = $1 AND d.partition = w.partition AND d."offset" >= w.from_offset AND d."offset" < w.to_offset) d
WHERE j.next_offset IS NULL OR j.next_offset < w.to_offset OR d.recorded <> w.duplicate
