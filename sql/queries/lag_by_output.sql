-- How far each output is behind: its slowest partition by event time and by its last commit. Offsets of Kafka's ends
-- are not in the database: `highwater status` has them.
SELECT m.topic, m.output, count(*) AS partitions,
       sum(m.next_offset - m.first_offset) AS passed,
       min(m.event_time_max) AS oldest_event_time,
       max(m.event_time_max) AS newest_event_time,
       min(m.committed_at) AS oldest_commit,
       date_trunc('second', now() - max(m.committed_at)) AS since_last_commit
FROM highwater.marks m
GROUP BY m.topic, m.output
ORDER BY oldest_commit NULLS FIRST, m.topic, m.output
