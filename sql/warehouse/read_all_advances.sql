-- Everything that moved event time without a record.
SELECT topic, partition, before_offset, event_time
FROM highwater.idle_advances
ORDER BY topic, partition, before_offset
