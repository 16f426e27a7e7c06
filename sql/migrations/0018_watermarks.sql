-- E-5: how far each output has come in each partition that its topic has, taken or not, and the slowest of
-- them, which is the output's watermark: NULL, and so nothing final, while one of them has none.
CREATE VIEW highwater.partition_watermarks AS
SELECT t.topic, o.output, p.partition, come.event_time,
       come.event_time - t.max_disorder AS watermark,
       coalesce(m.event_time_at, m.taken_at, t.declared_at) AS since
FROM highwater.topics t
JOIN (SELECT DISTINCT topic, output FROM highwater.marks WHERE output <> 'lake') o ON o.topic = t.topic
CROSS JOIN LATERAL generate_series(0, t.partitions - 1) AS p (partition)
LEFT JOIN highwater.marks m ON m.topic = t.topic AND m.output = o.output AND m.partition = p.partition
CROSS JOIN LATERAL (
    SELECT coalesce(m.event_time_max,
                    (SELECT max(a.event_time) FROM highwater.idle_advances a
                     WHERE a.topic = t.topic AND a.partition = p.partition
                       AND a.before_offset <= coalesce(m.next_offset, 0))) AS event_time) AS come;
COMMENT ON VIEW highwater.partition_watermarks IS
    'per output and partition: highest event time less the topic''s max_disorder, and since when it stands there';
CREATE VIEW highwater.watermarks AS
SELECT DISTINCT ON (topic, output)
       topic, output, watermark, partition AS held_back_by, since,
       count(*) OVER (PARTITION BY topic, output) AS partitions
FROM highwater.partition_watermarks
ORDER BY topic, output, watermark NULLS FIRST, since, partition;
COMMENT ON VIEW highwater.watermarks IS
    'per output: its watermark over all partitions (NULL: some have none yet), the partition that holds it back, and since when'
