-- N-4: in the transaction of the cut that it is for.
DELETE FROM highwater.accepted_deletes WHERE model = $1
