-- Of a model that is dropped: a leave that was not used.
DELETE FROM highwater.accepted_deletes WHERE model = $1
