-- Rows that an output took by a retry, not in their place: `verify --deep` judges them as the retry did.
SELECT topic, output, partition, "offset", event_time_max FROM highwater.refusals WHERE retried_at IS NOT NULL
