-- I-3: the rebuild's refusals become the live output's.
UPDATE highwater.refusals r SET output = $2, letter = CASE r.letter WHEN $3 THEN $2 ELSE r.letter END
WHERE r.topic = $1 AND r.output = $3
