-- What each player did on each day (UTC) with any event.
CREATE MATERIALIZED VIEW fact_user_days AS
SELECT event_time::date AS day,
       surrogate_key(user_id) AS user_key,
       count(*) FILTER (WHERE event_type = 'login') AS logins,
       count(*) FILTER (WHERE event_type = 'transaction' AND amount > 0) AS payments
FROM raw_events
GROUP BY day, user_key;
