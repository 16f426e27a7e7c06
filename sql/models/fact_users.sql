-- Each player's life: when it began, when it first paid, how often it came and paid.
CREATE MATERIALIZED VIEW fact_users AS
SELECT surrogate_key(user_id) AS user_key,
       min(event_time) FILTER (WHERE event_type = 'registration') AS registered_at,
       min(event_time) FILTER (WHERE event_type = 'transaction' AND amount > 0) AS first_paid_at,
       count(*) FILTER (WHERE event_type = 'login') AS logins,
       count(*) FILTER (WHERE event_type = 'transaction' AND amount > 0) AS payments
FROM raw_events
GROUP BY user_key;
