-- U-2, I-3: the judge's verdicts, in the transaction that moves its marks, so of their generation; the primary key
-- refuses a second.
INSERT INTO highwater.duplicates (topic, partition, generation, "offset", event_time)
SELECT $1, d.partition, m.generation, d.record_offset, d.event_time
FROM unnest($2::integer[], $3::bigint[], $4::timestamptz[]) AS d (partition, record_offset, event_time)
JOIN highwater.marks m ON m.topic = $1 AND m.output = 'dead_letters' AND m.partition = d.partition
