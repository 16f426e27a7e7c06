-- Orders and pieces per tenant, of the orders that the shop has.
CREATE MATERIALIZED VIEW orders_by_tenant AS
SELECT tenant, count(*) AS orders, sum(qty) AS pieces, count(*) FILTER (WHERE qty = 0) AS empty
FROM orders
GROUP BY tenant;
