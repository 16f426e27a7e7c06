-- A swap compares two whole tables, in memory where they fit; the service waits for it at its marks, or tries again.
SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true),
       set_config('work_mem', '256MB', true)
