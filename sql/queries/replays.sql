-- Replays under way, running or left by a process that ended: how many offsets each has come, of how many, by whom, and
-- since when.
SELECT r.topic, r.output, coalesce(sum(s.next_offset - s.first_offset), 0) AS done,
       coalesce(sum(l.next_offset - coalesce(s.first_offset, l.first_offset)), 0) AS of_offsets, max(s.owner) AS owner, r.started_at AS since
FROM highwater.rebuilds r
JOIN highwater.marks l ON l.topic = r.topic AND l.output = r.leader
LEFT JOIN highwater.marks s ON s.topic = r.topic AND s.output = r.shadow AND s.partition = l.partition
GROUP BY r.topic, r.output, r.started_at
UNION ALL
SELECT w.topic, 'lake', sum(s.next_offset - s.from_offset), sum(s.to_offset - s.from_offset), w.owner, w.started_at
FROM highwater.lake_rewrites w
JOIN highwater.lake_rewrite_spans s USING (topic)
GROUP BY w.topic, w.owner, w.started_at
ORDER BY 1, 2
