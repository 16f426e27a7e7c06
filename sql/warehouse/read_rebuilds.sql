-- What is being made anew, and how many records a retry has offered to each live output by now (B-4), of a new
-- one to any.
SELECT b.topic, b.output, b.shadow, b.definition, b.retried,
       (SELECT count(*) FROM highwater.refusals r
        WHERE r.topic = b.topic
          AND (r.output = b.output OR b.leader = 'dead_letters' AND r.output NOT LIKE 'model:\_%')
          AND (r.retried_at IS NOT NULL OR r.by_decode AND r.letter = r.output AND r.letter <> 'dead_letters')),
       b.started_at
FROM highwater.rebuilds b
WHERE $1::text IS NULL OR b.topic = $1
ORDER BY b.topic, b.output
