-- Every event, once.
CREATE MATERIALIZED VIEW fact_events AS
SELECT surrogate_key(user_id) AS user_key,
       surrogate_key(device_id) AS device_key,
       event_type,
       event_time
FROM raw_events;
