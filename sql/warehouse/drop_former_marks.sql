-- Of an output that is dropped: its totals in generations that are over.
DELETE FROM highwater.former_marks WHERE topic = $1 AND output = $2
