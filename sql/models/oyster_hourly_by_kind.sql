-- Taps and fares (pence) per hour and kind of tap; no fare where none was due.
CREATE MATERIALIZED VIEW oyster_hourly_by_kind WITH (allowed_lateness = '1 hour') AS
SELECT tumble(interval '1 hour') AS window,
       kind,
       count(*) AS taps,
       sum(fare) AS fare,
       min(fare) AS fare_min,
       max(fare) AS fare_max
FROM oyster_taps
GROUP BY window, kind;
