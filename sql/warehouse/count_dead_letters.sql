-- What marks.dead must equal: stored refusals per output and partition.
SELECT topic, output, partition, count(*) FROM highwater.dead_letters GROUP BY 1, 2, 3
