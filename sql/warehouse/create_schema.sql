-- Asked only when the schema is absent: IF NOT EXISTS would demand the right to create it even then.
DO $$ BEGIN
    IF to_regnamespace('highwater') IS NULL THEN CREATE SCHEMA highwater; END IF;
END $$
