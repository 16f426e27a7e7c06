-- Z-1: whoever goes on with it is kept out until it is dropped.
SELECT number FROM highwater.lake_rewrites WHERE topic = $1 FOR UPDATE
