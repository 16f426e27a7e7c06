-- Players with any event, per day (UTC).
SELECT day, count(*) AS active_users
FROM fact_user_days
GROUP BY day
ORDER BY day
