-- Players, as their latest event tells them.
CREATE MATERIALIZED VIEW dim_users WITH (primary_key = 'user_key') AS
SELECT surrogate_key(user_id) AS user_key, user_id, country, event_time AS seen_at
FROM raw_events;
