-- The topics in which an output has marks.
SELECT DISTINCT topic FROM highwater.marks WHERE output = $1 ORDER BY topic
