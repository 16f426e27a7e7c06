-- Of an output that is dropped: what a person had accepted as gone in it.
DELETE FROM highwater.gaps WHERE topic = $1 AND output = $2
