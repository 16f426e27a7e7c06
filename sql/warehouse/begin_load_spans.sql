-- N-5: it begins where each log ended; what a model has committed already, it has judged without it.
INSERT INTO highwater.load_spans (topic, number, partition, from_offset)
SELECT $1::text, $2::integer, partition, greatest(log_end, (
    SELECT max(m.next_offset) FROM highwater.marks m
    WHERE m.topic = $1 AND m.partition = e.partition AND m.output LIKE 'model:%'))
FROM unnest($3::integer[], $4::bigint[]) AS e (partition, log_end)
