-- U-1: how far the event time of each of a topic's partitions has come for the judge, as far as it is committed.
SELECT partition, event_time_max FROM highwater.marks
WHERE topic = $1 AND output = 'dead_letters' AND event_time_max IS NOT NULL
ORDER BY partition
