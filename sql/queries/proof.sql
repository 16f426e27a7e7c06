-- I-3 over everything: per output, the offsets its marks passed against the sum of their fates, and
-- for the lake and for what was refused against what is really stored.
SELECT m.topic || ' ' || m.output AS output,
       sum(m.next_offset - m.first_offset) AS passed,
       sum(m.accepted) AS accepted, sum(m.filtered) AS filtered, sum(m.late) AS late,
       sum(m.dead) AS dead, sum(m.absent) AS absent,
       CASE
         WHEN sum(m.next_offset - m.first_offset)
              <> sum(m.accepted + m.filtered + m.late + m.dead + m.absent) THEN 'DOES NOT ADD UP'
         WHEN m.output = 'lake' AND sum(m.accepted) <> coalesce(
              (SELECT sum(f.rows) FROM highwater.lake_files f WHERE f.topic = m.topic), 0)
              THEN 'ROWS IN FILES DIFFER'
         WHEN sum(m.dead) <>
              (SELECT count(*) FROM highwater.refusals r
               JOIN highwater.dead_letters d ON d.topic = r.topic AND d.partition = r.partition
                    AND d."offset" = r."offset" AND d.output = r.letter
               WHERE r.topic = m.topic AND r.output = m.output AND r.retried_at IS NULL)
              THEN 'DEAD LETTERS DIFFER'
         ELSE 'adds up'
       END AS verdict
FROM highwater.marks m
GROUP BY m.topic, m.output
ORDER BY 1
