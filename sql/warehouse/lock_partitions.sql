-- W-2: every mark of some partitions, both lanes (of rebuilds none: B-2), in the order in which cuts lock theirs: no cut and no other retry
-- of these partitions is under way from here on.
SELECT output, partition, epoch FROM highwater.marks
WHERE topic = $1 AND partition = ANY ($2::integer[]) AND output NOT LIKE 'model:\_%'
ORDER BY output, partition
FOR UPDATE
