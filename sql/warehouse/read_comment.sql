-- What the table's comment says it was filled by: the model's name and the fingerprint of its definition.
SELECT obj_description(to_regclass(quote_ident($1)), 'pg_class')
