-- What a definition consists of; for good, since its fingerprint says all of it.
INSERT INTO highwater.definitions (definition, frame, pieces, noted_at) VALUES ($1, $2, $3, now()) ON CONFLICT DO NOTHING
