-- Whether an output has passed any offset: then its table must be there already.
SELECT count(*), coalesce(sum(next_offset - first_offset), 0)::bigint FROM highwater.marks WHERE output = $1
