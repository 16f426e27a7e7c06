-- X-3: a column is added or widened, as the next of its topic.
INSERT INTO highwater.added_columns (topic, number, column_name, field, type, was, version, partition, "offset",
                                     added_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now())
