-- Of a database that is thrown away: everything but its schema. Few rows in many tables: to delete them is faster than to
-- truncate; what they refer to goes as well, so nobody looks at that.
DO $$
DECLARE
  one text;
BEGIN
  DROP SCHEMA public CASCADE;
  CREATE SCHEMA public;
  PERFORM set_config('session_replication_role', 'replica', true);
  FOR one IN
    SELECT format('highwater.%I', c.relname)
    FROM pg_class c
    WHERE c.relnamespace = 'highwater'::regnamespace AND c.relkind = 'r'
      AND c.relname NOT IN ('migrations', 'warehouse_id')
  LOOP
    EXECUTE 'DELETE FROM ' || one;
  END LOOP;
END $$
