-- Every transaction, once however often its event came.
CREATE MATERIALIZED VIEW fact_transactions WITH (primary_key = 'transaction_key') AS
SELECT surrogate_key(transaction_id) AS transaction_key,
       surrogate_key(user_id) AS user_key,
       surrogate_key(device_id) AS device_key,
       product,
       amount,
       currency,
       event_time AS paid_at
FROM raw_events
WHERE transaction_id IS NOT NULL;
