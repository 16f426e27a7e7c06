-- What a table is now, for comparing with what its model keeps. Only the current schema is looked at, since
-- there CREATE TABLE would put it.
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '', coalesce(c.collname::text, '')
FROM pg_attribute a
LEFT JOIN pg_collation c ON c.oid = a.attcollation
WHERE a.attrelid = (SELECT r.oid FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
                    WHERE n.nspname = current_schema() AND r.relname = $1)
  AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
