-- The statements that most requests run: the driver prepares each of them once per connection.

-- name: place
-- An order and its lines. The columns of the order that its client sees come back.
WITH placed AS (
    INSERT INTO orders (client_id, idempotency_key, customer_email, amount, currency, payment_method)
    VALUES (:client, :key, :customer_email, :amount, :currency, :payment_method)
    RETURNING id, status, amount, currency, reason, created_at, updated_at
), lines AS (
    INSERT INTO order_line (order_id, position, product_id, quantity, unit_price)
    SELECT placed.id, line.position, line.product_id, line.quantity, line.unit_price
    FROM placed, unnest(:products::text[], :quantities::bigint[], :prices::bigint[])
        WITH ORDINALITY AS line (product_id, quantity, unit_price, position)
)
SELECT * FROM placed;

-- name: find
-- Order :order_id of client :client with its lines, a row for each, by position. `|| ''` keeps it off the indexes that
-- begin with the client: as long as there are no statistics, it would read all orders of the client by one of them.
SELECT o.id, o.status, o.amount, o.currency, o.reason, o.created_at, o.updated_at,
    l.product_id, l.quantity, l.unit_price
FROM orders o JOIN order_line l ON l.order_id = o.id
WHERE o.id = :order_id AND o.client_id || '' = :client
ORDER BY l.position;
