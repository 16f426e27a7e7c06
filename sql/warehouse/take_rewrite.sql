-- Z-1: of two processes that write the same files anew the one that took it last goes on.
UPDATE highwater.lake_rewrites SET epoch = epoch + 1, owner = $2 WHERE topic = $1 RETURNING epoch
