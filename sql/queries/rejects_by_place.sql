-- Every dead letter in the order of the logs: where it is, who refuses it and why.
SELECT topic, partition, "offset", output, class, coalesce(column_name, '') AS column, reason
FROM highwater.dead_letters
ORDER BY topic, generation, partition, "offset", output
