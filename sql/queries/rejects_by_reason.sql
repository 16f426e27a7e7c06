-- What was refused, by whom and why: dead letters by output, class and column, with one example.
SELECT topic, output, class, coalesce(column_name, '') AS column, count(*) AS records,
       min(reason) AS for_example
FROM highwater.dead_letters
GROUP BY topic, output, class, column_name
ORDER BY records DESC, topic, output, class, column_name
