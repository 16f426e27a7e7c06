-- U-1: batches of keys with the numbers behind $2, which are free when nobody else has written keys since the caller
-- read up to there. It waits for who is about to commit the same number, and counts the rows: one fewer means that
-- there are keys which it has not compared with its own.
INSERT INTO highwater.unique_keys (topic, number, partition, keys, forget_at)
SELECT $1, $2 + n.number, n.partition, n.keys, n.forget_at
FROM unnest($3::integer[], $4::bytea[], $5::timestamptz[]) WITH ORDINALITY AS n (partition, keys, forget_at, number)
ON CONFLICT (topic, number) DO NOTHING
