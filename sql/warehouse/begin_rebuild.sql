-- B-1: one rebuild of an output at a time. Nothing where one is under way: whoever comes next goes on with it.
-- B-4: a new output follows no retry; that letters which it may have passed are gone shows in those of all others.
INSERT INTO highwater.rebuilds (topic, output, shadow, definition, leader, retried, started_at)
SELECT $1, $2, $3, $4, $5,
       (SELECT count(*) FROM highwater.refusals r
        WHERE r.topic = $1 AND (r.output = $2 OR $5 = 'dead_letters' AND r.output NOT LIKE 'model:\_%')
          AND (r.retried_at IS NOT NULL OR r.by_decode AND r.letter = r.output AND r.letter <> 'dead_letters')), now()
ON CONFLICT (topic, output) DO NOTHING
