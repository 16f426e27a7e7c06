-- U-3: spans of a cut of the lake that the judge has not passed yet in their generation, or where the recorded
-- duplicates are not those that the cut left out. None may be there.
SELECT w.partition, j.next_offset, d.recorded
FROM unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[]) AS w (partition, from_offset, to_offset, duplicate)
LEFT JOIN highwater.marks l ON l.topic = $1 AND l.output = 'lake' AND l.partition = w.partition
LEFT JOIN highwater.marks j ON j.topic = $1 AND j.output = 'dead_letters' AND j.partition = w.partition
     AND j.generation = l.generation
CROSS JOIN LATERAL (
    SELECT count(*) AS recorded FROM highwater.duplicates d
    WHERE d.topic = $1 AND d.partition = w.partition AND d.generation = l.generation
      AND d."offset" >= w.from_offset AND d."offset" < w.to_offset) d
WHERE j.next_offset IS NULL OR j.next_offset < w.to_offset OR d.recorded <> w.duplicate
