-- Everything that moved event time without a record.
SELECT topic, partition, before_offset, event_time, generation
FROM highwater.idle_advances
ORDER BY topic, partition, generation, before_offset
