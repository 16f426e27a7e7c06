-- U-1: which of these keys are taken and not forgotten. A retry asks before it decides; what changes until it commits,
-- `insert_unique_keys` finds.
SELECT k.key FROM highwater.unique_keys k
WHERE k.topic = $1 AND k.key = ANY ($2::uuid[])
  AND NOT EXISTS (SELECT FROM highwater.marks m
                  WHERE m.topic = k.topic AND m.output = 'dead_letters' AND m.partition = k.partition
                    AND m.event_time_max >= k.forget_at)
