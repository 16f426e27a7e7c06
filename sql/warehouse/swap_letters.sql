-- I-3: the letters of the live output become the rebuild's. One that says the same stays the row that it is: it may
-- have been sent on.
WITH mine AS (
    SELECT d.partition, d."offset", d.generation FROM highwater.dead_letters d WHERE d.topic = $1 AND d.output = $3
), gone AS (
    DELETE FROM highwater.dead_letters d
    USING highwater.marks m
    WHERE d.topic = $1 AND d.output = $2 AND m.topic = $1 AND m.output = $2 AND m.partition = d.partition
      AND m.generation = d.generation
      AND NOT EXISTS (SELECT FROM mine
                      WHERE mine.partition = d.partition AND mine."offset" = d."offset"
                        AND mine.generation = d.generation)
)
UPDATE highwater.dead_letters d SET output = $2
WHERE d.topic = $1 AND d.output = $3
  AND NOT EXISTS (SELECT FROM highwater.dead_letters l
                  WHERE l.topic = $1 AND l.output = $2 AND l.partition = d.partition AND l."offset" = d."offset"
                    AND l.generation = d.generation)
