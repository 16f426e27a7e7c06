-- In the migration's own transaction: applied and recorded, or neither.
INSERT INTO highwater.migrations (name, checksum, applied_at) VALUES ($1, $2, now())
