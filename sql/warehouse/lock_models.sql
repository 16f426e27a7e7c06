-- W-8: the models whose rows depend on each other (sessions too: two processes with the same key in different
-- partitions would each add one beside the other's, unseen), locked in order of name until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('highwater model ' || name, 0))
FROM (SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS w (name, place) ORDER BY place) AS w
