-- X-4: whoever goes by other additions than are recorded may not go on. Asked under locks on marks: what is recorded
-- later waits for them. Takes ask the same in `bump_epochs`.
SELECT (SELECT count(*) FROM highwater.added_columns WHERE topic = $1),
       (SELECT coalesce(sum(since), 0)::bigint FROM highwater.added_column_starts WHERE topic = $1)
