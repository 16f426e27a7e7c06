-- Of a rebuild that is given up: its own letters, and those that nobody but it had reason to write.
DELETE FROM highwater.dead_letters d
WHERE d.topic = $1
  AND (d.output = $2
       OR d.output = 'dead_letters'
          AND EXISTS (SELECT FROM highwater.refusals r
                      WHERE r.topic = $1 AND r.output = $2 AND r.partition = d.partition AND r."offset" = d."offset"
                        AND r.letter = d.output AND r.generation = d.generation)
          AND NOT EXISTS (SELECT FROM highwater.refusals r
                          WHERE r.topic = $1 AND r.output <> $2 AND r.partition = d.partition
                            AND r."offset" = d."offset" AND r.letter = d.output AND r.generation = d.generation
                            AND r.retried_at IS NULL))
