-- N-3: records that decode refused above these offsets, or anywhere in partitions that are not named: each may
-- have been a row of the snapshot.
SELECT count(*)
FROM highwater.dead_letters l
JOIN highwater.marks m USING (topic, partition, generation)
LEFT JOIN unnest($2::integer[], $3::bigint[]) AS before (partition, last) ON before.partition = l.partition
WHERE l.topic = $1 AND l.output = 'dead_letters' AND m.output = 'dead_letters'
  AND l."offset" > coalesce(before.last, -1)
