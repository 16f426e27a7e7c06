-- Taps and fares per stop and mode, in windows of five minutes.
CREATE MATERIALIZED VIEW taps_by_stop_5m WITH (allowed_lateness = '30 minutes') AS
SELECT tumble(interval '5 minutes') AS window,
       stop_id,
       mode,
       count(*) AS taps,
       sum(fare_cents) AS fare_cents,
       min(fare_cents) AS fare_cents_min,
       max(fare_cents) AS fare_cents_max
FROM taps
GROUP BY window, stop_id, mode;
