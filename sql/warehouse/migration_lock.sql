-- One process migrates or makes tables at a time. The lock ends with the transaction, so a death frees it.
-- The number is "highwatr" in ASCII.
SELECT pg_advisory_xact_lock(7523658350876259442)
