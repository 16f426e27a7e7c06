-- W-2, B-3: the marks of one output in sorted order. No cut moves one of them from here on.
SELECT partition FROM highwater.marks WHERE topic = $1 AND output = $2 ORDER BY partition FOR UPDATE
