-- A version is known by its content: loaded again, it is the same.
INSERT INTO highwater.reference_versions (reference, version, rows, content, loaded_at)
VALUES ($1, $2, $3, $4, now())
ON CONFLICT DO NOTHING
