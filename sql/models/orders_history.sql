-- Every version of every order, and when it held.
CREATE MATERIALIZED VIEW orders_history WITH (history = 'validity') AS
SELECT tenant, order_id, item, qty
FROM orders;
