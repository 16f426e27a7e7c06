-- N-5: a load has ended.
UPDATE highwater.loads SET ended_by = $3, ended_at = now() WHERE topic = $1 AND number = $2 AND ended_at IS NULL
