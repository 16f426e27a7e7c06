-- Of a rebuild that is swapped in or given up; its refusals go with them.
DELETE FROM highwater.marks WHERE topic = $1 AND output = $2
