-- B-1: over, in the transaction that swaps its tables in or drops them.
DELETE FROM highwater.rebuilds WHERE topic = $1 AND output = $2
