-- What marks.dead must equal: stored refusals per output, partition and generation.
SELECT topic, output, partition, count(*), generation FROM highwater.dead_letters GROUP BY 1, 2, 3, 5
