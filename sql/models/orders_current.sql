-- The orders that the shop has.
CREATE MATERIALIZED VIEW orders_current AS
SELECT tenant, order_id, item, qty
FROM orders;
