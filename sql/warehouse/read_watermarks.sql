-- Per output, over all processes: its watermark, and what holds it back.
SELECT topic, output, watermark, held_back_by, since
FROM highwater.watermarks
WHERE $1::text IS NULL OR topic = $1
ORDER BY topic, output
