-- Taps and journeys per quarter of an hour and stop.
CREATE MATERIALIZED VIEW oyster_stop_15m AS
SELECT tumble(interval '15 minutes') AS window,
       stop_id,
       count(*) AS taps,
       count(DISTINCT token_id) AS riders
FROM oyster_taps
GROUP BY window, stop_id;
