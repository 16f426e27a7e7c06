-- N-5: it ends where each log ends; what a model has committed already, it has judged as of the load. Partitions
-- that were added meanwhile are of it from their first offset on.
INSERT INTO highwater.load_spans AS s (topic, number, partition, from_offset, to_offset)
SELECT $1::text, $2::integer, partition, 0, greatest(log_end, (
    SELECT max(m.next_offset) FROM highwater.marks m
    WHERE m.topic = $1 AND m.partition = e.partition AND m.output LIKE 'model:%'))
FROM unnest($3::integer[], $4::bigint[]) AS e (partition, log_end)
ON CONFLICT (topic, number, partition) DO UPDATE SET to_offset = greatest(s.from_offset, excluded.to_offset)
