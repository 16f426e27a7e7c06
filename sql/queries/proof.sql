-- I-3 over everything: per output and generation, the offsets its marks passed against the sum of their fates, and for
-- the lake, for what was refused, for duplicates and for what was lost against what is really stored.
WITH m AS (
  SELECT topic, output, partition, generation, first_offset, next_offset,
         accepted, filtered, late, dead, absent, duplicate, lost
  FROM highwater.marks
  UNION ALL
  SELECT topic, output, partition, generation, first_offset, next_offset,
         accepted, filtered, late, dead, absent, duplicate, lost
  FROM highwater.former_marks
)
SELECT m.topic || ' ' || m.output AS output, m.generation,
       sum(m.next_offset - m.first_offset) AS passed,
       sum(m.accepted) AS accepted, sum(m.filtered) AS filtered, sum(m.late) AS late,
       sum(m.dead) AS dead, sum(m.absent) AS absent, sum(m.duplicate) AS duplicate, sum(m.lost) AS lost,
       CASE
         WHEN sum(m.next_offset - m.first_offset)
              <> sum(m.accepted + m.filtered + m.late + m.dead + m.absent + m.duplicate + m.lost)
              THEN 'DOES NOT ADD UP'
         WHEN m.output = 'lake' AND sum(m.accepted) <> coalesce(
              (SELECT sum(r.rows - r.extra_rows) FROM highwater.lake_file_ranges r
               WHERE r.topic = m.topic AND r.generation = m.generation), 0)
              THEN 'ROWS IN FILES DIFFER'
         WHEN sum(m.dead) <>
              (SELECT count(*) FROM highwater.refusals r
               JOIN highwater.dead_letters d ON d.topic = r.topic AND d.partition = r.partition
                    AND d."offset" = r."offset" AND d.output = r.letter AND d.generation = r.generation
               WHERE r.topic = m.topic AND r.output = m.output AND r.generation = m.generation
                 AND r.retried_at IS NULL)
              THEN 'DEAD LETTERS DIFFER'
         WHEN sum(m.duplicate) <>
              (SELECT count(*) FROM highwater.duplicates d JOIN m o USING (topic, partition, generation)
               WHERE o.topic = m.topic AND o.output = m.output AND o.generation = m.generation
                 AND d."offset" >= o.first_offset AND d."offset" < o.next_offset) THEN 'DUPLICATES DIFFER'
         WHEN sum(m.lost) <> coalesce(
              (SELECT sum(g.lost) FROM highwater.gaps g
               WHERE g.topic = m.topic AND g.output = m.output AND g.generation = m.generation), 0)
              THEN 'LOST OFFSETS DIFFER'
         ELSE 'adds up'
       END AS verdict
FROM m
GROUP BY m.topic, m.output, m.generation
ORDER BY 1, 2
