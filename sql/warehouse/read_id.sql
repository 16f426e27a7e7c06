-- Which warehouse this is: the beginning of the names of what it has staged.
SELECT id::text FROM highwater.warehouse_id
