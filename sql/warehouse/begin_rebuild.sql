-- B-1: one rebuild of an output at a time. Nothing where one is under way: whoever comes next goes on with it.
INSERT INTO highwater.rebuilds (topic, output, shadow, definition, retried, started_at)
SELECT $1, $2, $3, $4,
       (SELECT count(*) FROM highwater.refusals r
        WHERE r.topic = $1 AND r.output = $2 AND (r.retried_at IS NOT NULL OR r.by_decode AND r.letter = r.output)), now()
ON CONFLICT (topic, output) DO NOTHING
