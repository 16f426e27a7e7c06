-- Of an output that is made anew, or is given up.
DELETE FROM highwater.reference_uses WHERE topic = $1 AND output = $2
