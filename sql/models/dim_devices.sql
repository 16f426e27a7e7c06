-- Devices, as their latest event tells them.
CREATE MATERIALIZED VIEW dim_devices WITH (primary_key = 'device_key') AS
SELECT surrogate_key(device_id) AS device_key, device_id, os, os_version, event_time AS seen_at
FROM raw_events;
