-- The rows that the source has.
CREATE MATERIALIZED VIEW edw_sample_current AS
SELECT sample_id, sample_name, inserted_at, updated_at
FROM edw_sample;
