-- The keys of a topic that are not forgotten, a page at a time, in the order of the primary key.
SELECT array_agg(p.key), array_agg(p.partition), array_agg(p.forget_at)
FROM (SELECT k.key, k.partition, k.forget_at FROM highwater.unique_keys k
      WHERE k.topic = $1 AND k.key > $2
        AND NOT EXISTS (SELECT FROM highwater.marks m
                        WHERE m.topic = k.topic AND m.output = 'dead_letters' AND m.partition = k.partition
                          AND m.event_time_max >= k.forget_at)
      ORDER BY k.key
      LIMIT $3) p
