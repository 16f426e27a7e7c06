-- Z-1: nobody takes it, commits to it or ends it from here on. No row: it is over, or another process goes on with it.
SELECT number, grace FROM highwater.lake_rewrites WHERE topic = $1 AND epoch = $2 FOR UPDATE
