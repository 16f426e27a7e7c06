-- N-5: a load begins.
INSERT INTO highwater.loads (topic, number, begun_by, begun_at) VALUES ($1, $2, $3, now())
