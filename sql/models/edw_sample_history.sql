-- Every version of every row, and when it held.
CREATE MATERIALIZED VIEW edw_sample_history WITH (history = 'validity') AS
SELECT sample_id, sample_name
FROM edw_sample;
