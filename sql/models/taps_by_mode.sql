-- Everything since the beginning, per mode.
CREATE MATERIALIZED VIEW taps_by_mode AS
SELECT mode,
       count(*) AS taps,
       count(*) FILTER (WHERE fare_cents > 0) AS taps_paid,
       sum(fare_cents) AS fare_cents,
       avg(fare_cents) AS fare_cents_avg,
       min(event_time) AS tap_first,
       max(event_time) AS tap_last
FROM taps
GROUP BY mode;
