-- Z-1: a piece begins where the one before ended. The caller counts the row.
UPDATE highwater.lake_rewrite_spans SET next_offset = $4
WHERE topic = $1 AND partition = $2 AND next_offset = $3 AND $4 <= to_offset
