-- Of a database that is thrown away: everything but its schema.
DO $$
BEGIN
  DROP SCHEMA public CASCADE;
  CREATE SCHEMA public;
  EXECUTE (SELECT 'TRUNCATE ' || string_agg(format('highwater.%I', c.relname), ', ')
           FROM pg_class c
           WHERE c.relnamespace = 'highwater'::regnamespace AND c.relkind = 'r'
             AND c.relname NOT IN ('migrations', 'warehouse_id'));
END $$
