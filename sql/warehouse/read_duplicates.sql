-- U-2: the verdicts that an output of these partitions still needs: from its lowest mark on, or from the oldest
-- offset where the lake has no mark yet ($4). Of the generation in which the judge stands: an output of another one begins
-- that anew before it reads on (G-2).
SELECT f.partition, f.floor, coalesce(d.offsets, '{}')
FROM (SELECT w.partition, j.generation,
             CASE WHEN $4 AND NOT coalesce(bool_or(m.output = 'lake'), false) THEN least(w.oldest, min(m.next_offset))
                  ELSE coalesce(min(m.next_offset), w.oldest) END AS floor
      FROM unnest($2::integer[], $3::bigint[]) AS w (partition, oldest)
      LEFT JOIN highwater.marks j ON j.topic = $1 AND j.partition = w.partition AND j.output = 'dead_letters'
      LEFT JOIN highwater.marks m ON m.topic = $1 AND m.partition = w.partition
           AND m.generation = coalesce(j.generation, m.generation) AND m.output NOT LIKE 'model:\_%'
      GROUP BY w.partition, w.oldest, j.generation) f
CROSS JOIN LATERAL (
    SELECT array_agg(d."offset" ORDER BY d."offset") AS offsets FROM highwater.duplicates d
    WHERE d.topic = $1 AND d.partition = f.partition AND d.generation = f.generation AND d."offset" >= f.floor) d
ORDER BY f.partition
