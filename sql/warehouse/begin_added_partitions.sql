-- E-5: partitions $2 and up were added; they begin where the slowest of the others stands, so that what is
-- final stays final. Where one of the others has come nowhere yet, nothing is final.
INSERT INTO highwater.idle_advances (topic, partition, before_offset, event_time, recorded_at)
SELECT $1, added.partition, 0, others.event_time, now()
FROM generate_series($2::integer, $3::integer - 1) AS added (partition)
CROSS JOIN (SELECT min(w.event_time) AS event_time
            FROM highwater.partition_watermarks w
            WHERE w.topic = $1 AND w.output = 'dead_letters'
            HAVING count(w.event_time) = $2::integer) AS others
ON CONFLICT DO NOTHING
