-- The batches of a topic's keys behind a number, a page at a time.
SELECT number, partition, keys FROM highwater.unique_keys
WHERE topic = $1 AND number > $2
ORDER BY number
LIMIT $3
