-- Per day (UTC): active players, those who paid, those who paid for the first time (converted), and both as shares of
-- the active.
WITH days AS (
  SELECT day, count(*) AS active_users, count(*) FILTER (WHERE payments > 0) AS paying_users
  FROM fact_user_days
  GROUP BY day
), converted AS (
  SELECT (first_paid_at AT TIME ZONE 'UTC')::date AS day, count(*) AS converting_users
  FROM fact_users
  WHERE first_paid_at IS NOT NULL
  GROUP BY 1
)
SELECT day, active_users, paying_users, coalesce(converting_users, 0) AS converting_users,
       round(paying_users::numeric / active_users, 4) AS paying_ratio,
       round(coalesce(converting_users, 0)::numeric / active_users, 4) AS converting_ratio
FROM days LEFT JOIN converted USING (day)
ORDER BY day
