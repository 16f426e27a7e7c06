-- Where each device was last seen, and when.
CREATE MATERIALIZED VIEW latest_tap_by_device WITH (primary_key = 'device_id') AS
SELECT device_id, stop_id, mode, tap_id, event_time AS tapped_at
FROM taps;
