-- What the views over marks must know of a topic.
INSERT INTO highwater.topics AS t (topic, max_disorder, declared_at)
VALUES ($1, $2::bigint * interval '1 microsecond', now())
ON CONFLICT (topic) DO UPDATE SET max_disorder = excluded.max_disorder
WHERE t.max_disorder IS DISTINCT FROM excluded.max_disorder
