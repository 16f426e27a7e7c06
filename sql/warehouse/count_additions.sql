-- X-4: whoever takes partitions by other additions than are recorded may not go on with them. A statement of its
-- own after `lock_lane`: what is recorded later finds the marks, and fences them.
SELECT (SELECT count(*) FROM highwater.added_columns WHERE topic = $1),
       (SELECT coalesce(sum(since), 0)::bigint FROM highwater.added_column_starts WHERE topic = $1)
