-- I-3 over everything: per output, the offsets its marks passed against the sum of their fates, and
-- for the lake, for what was refused and for duplicates against what is really stored.
SELECT m.topic || ' ' || m.output AS output,
       sum(m.next_offset - m.first_offset) AS passed,
       sum(m.accepted) AS accepted, sum(m.filtered) AS filtered, sum(m.late) AS late,
       sum(m.dead) AS dead, sum(m.absent) AS absent, sum(m.duplicate) AS duplicate,
       CASE
         WHEN sum(m.next_offset - m.first_offset)
              <> sum(m.accepted + m.filtered + m.late + m.dead + m.absent + m.duplicate) THEN 'DOES NOT ADD UP'
         WHEN m.output = 'lake' AND sum(m.accepted) <> coalesce(
              (SELECT sum(f.rows) FROM highwater.lake_files f WHERE f.topic = m.topic), 0)
              THEN 'ROWS IN FILES DIFFER'
         WHEN sum(m.dead) <>
              (SELECT count(*) FROM highwater.refusals r
               JOIN highwater.dead_letters d ON d.topic = r.topic AND d.partition = r.partition
                    AND d."offset" = r."offset" AND d.output = r.letter
               WHERE r.topic = m.topic AND r.output = m.output AND r.retried_at IS NULL)
              THEN 'DEAD LETTERS DIFFER'
         WHEN sum(m.duplicate) <>
              (SELECT count(*) FROM highwater.duplicates d JOIN highwater.marks o USING (topic, partition)
               WHERE o.topic = m.topic AND o.output = m.output
                 AND d."offset" >= o.first_offset AND d."offset" < o.next_offset) THEN 'DUPLICATES DIFFER'
         ELSE 'adds up'
       END AS verdict
FROM highwater.marks m
GROUP BY m.topic, m.output
ORDER BY 1
