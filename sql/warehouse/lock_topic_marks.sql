-- E-5: no cut of the topic moves event time while partitions that were added get their beginning. In the
-- order of every other lock (W-2); rebuilds have locks of their own (B-2).
SELECT FROM highwater.marks WHERE topic = $1 AND output <> 'lake' AND output NOT LIKE 'model:\_%'
ORDER BY output, partition FOR UPDATE
