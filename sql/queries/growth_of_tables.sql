-- What models and highwater itself take in the database: live and dead rows, bytes with indexes, last vacuum.
SELECT s.schemaname || '.' || s.relname AS table_name, s.n_live_tup AS rows, s.n_dead_tup AS dead_rows,
       pg_size_pretty(pg_total_relation_size(s.relid)) AS size,
       s.n_tup_ins AS inserted, s.n_tup_upd AS updated, s.n_tup_hot_upd AS updated_in_place,
       greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed
FROM pg_stat_user_tables s
ORDER BY pg_total_relation_size(s.relid) DESC
