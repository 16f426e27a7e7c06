-- M-2: sessions of one model merge in one transaction at a time. Two processes with the same key in different
-- partitions would else both add a session beside the other's, unseen. Ends with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('highwater sessions of ' || $1::text, 0))
