-- N-4: a leave is for one cut, however often it is given.
INSERT INTO highwater.accepted_deletes (model, accepted_by)
SELECT name, $2 FROM unnest($1::text[]) AS m (name)
ON CONFLICT (model) DO UPDATE SET accepted_by = excluded.accepted_by, accepted_at = now()
