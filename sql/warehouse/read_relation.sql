-- What stands under a name where CREATE VIEW would put it: its kind, and the comment that says whose it is.
SELECT r.relkind::text, coalesce(obj_description(r.oid, 'pg_class'), '')
FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE n.nspname = current_schema() AND r.relname = $1
