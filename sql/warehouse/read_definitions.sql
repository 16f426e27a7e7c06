-- By which definition tables were filled, as their comments say; of names that are no table nothing.
SELECT r.relname::text, obj_description(r.oid, 'pg_class')
FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE n.nspname = current_schema() AND r.relkind = 'r' AND r.relname = ANY ($1::text[])
