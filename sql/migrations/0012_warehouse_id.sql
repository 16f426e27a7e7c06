-- Who this warehouse is: staged objects in the lake carry it, so that two warehouses which share a bucket do
-- not sweep what the other one knows. A copy of the database is the same warehouse: give it another lake.
CREATE TABLE highwater.warehouse_id AS SELECT gen_random_uuid()::text AS id
