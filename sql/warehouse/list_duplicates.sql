-- The recorded duplicates of a topic, with what they did to the watermark.
SELECT partition, "offset", event_time, generation FROM highwater.duplicates
WHERE topic = $1
ORDER BY partition, generation, "offset"
