-- A limit on everything: no statement runs on, and a process that has stopped in the middle of a cut
-- (a network cut off, a frozen machine) does not hold its marks locked against the next owner.
SELECT set_config('statement_timeout', $1, true),
       set_config('idle_in_transaction_session_timeout', $1, true),
       set_config('client_min_messages', 'warning', true)
