-- W-1: of two processes that rebuild the same output the one that took it last goes on.
UPDATE highwater.marks SET epoch = epoch + 1, owner = $3, taken_at = now() WHERE topic = $1 AND output = $2
