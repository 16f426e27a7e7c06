-- All tables that a definition of the model has made, by their comments.
SELECT r.relname::text
FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE n.nspname = current_schema() AND r.relkind = 'r'
  AND starts_with(obj_description(r.oid, 'pg_class'), 'highwater model ' || $1 || ', definition ')
ORDER BY r.relname
