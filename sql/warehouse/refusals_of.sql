-- Who counts a record as dead, and who took it by a retry.
SELECT output, letter, event_time_max, retried_at, generation
FROM highwater.refusals
WHERE topic = $1 AND partition = $2 AND "offset" = $3
ORDER BY generation, output
