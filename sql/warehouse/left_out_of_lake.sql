-- I-3: offsets that the lake has passed without a row: refused and not retried since, or duplicates.
SELECT r."offset" FROM highwater.refusals r
WHERE r.topic = $1 AND r.partition = $2 AND r.generation = $3 AND r.output = 'lake' AND r.retried_at IS NULL
  AND r."offset" BETWEEN $4 AND $5
UNION
SELECT d."offset" FROM highwater.duplicates d
WHERE d.topic = $1 AND d.partition = $2 AND d.generation = $3 AND d."offset" BETWEEN $4 AND $5
ORDER BY 1
