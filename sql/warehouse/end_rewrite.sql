-- Z-1: over, in the transaction that swaps its files in or drops them; its spans go with it.
DELETE FROM highwater.lake_rewrites WHERE topic = $1
