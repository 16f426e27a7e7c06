-- Rows of the lake that a model does not have, since decode refused them to it: `verify --deep` leaves them out of
-- that model. Those on which its expressions fail do so again, and raise the watermark as they did.
SELECT r.topic, r.output, r.partition, r."offset", r.generation
FROM highwater.refusals r
WHERE r.output LIKE 'model:%' AND r.retried_at IS NULL AND r.by_decode
  AND NOT EXISTS (SELECT FROM highwater.refusals l
                  WHERE l.topic = r.topic AND l.partition = r.partition AND l."offset" = r."offset"
                    AND l.output = 'lake' AND l.generation = r.generation AND l.retried_at IS NULL)
