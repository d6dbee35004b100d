-- The statements that most requests, jobs and events run. The driver prepares each statement once per connection.

-- name: place
-- Insert an order and its lines. Returns the columns of the order that its client sees.
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

-- name: find_payment
-- Find the payment of the order :order_id of the client :client, as far as the order knows it. The comment of the
-- statement `find` explains the expression `|| ''`.
SELECT o.payment_id, o.status, o.paid_amount, o.reason, o.updated_at
FROM orders o
WHERE o.id = :order_id AND o.client_id || '' = :client;

-- name: find
-- Find the order :order_id of the client :client. Returns one row for each line of the order, sorted by position. The
-- expression `|| ''` keeps PostgreSQL from using an index whose first column is the client. Without statistics of the
-- table, PostgreSQL might choose such an index and read all orders of the client.
SELECT o.id, o.status, o.amount, o.currency, o.reason, o.created_at, o.updated_at,
    l.product_id, l.quantity, l.unit_price
FROM orders o JOIN order_line l ON l.order_id = o.id
WHERE o.id = :order_id AND o.client_id || '' = :client
ORDER BY l.position;

-- name: backlog
-- Measure the backlog of orders. `waiting`: the number of orders that are not final, up to :limit. `oldest_age`: the
-- age of the oldest of them in seconds. Orders older than :excluded_age seconds do not count. `done`: the number of
-- orders that became final within the last :window seconds. Times later than now do not count: they are from before the
-- clock was set back.
SELECT count(*) AS waiting,
    coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_age,
    (
        SELECT count(*) FROM orders
        WHERE status IN ('confirmed', 'cancelled')
            AND updated_at BETWEEN now() - make_interval(secs => :window::double precision) AND now()
    ) AS done
FROM (
    SELECT created_at FROM orders
    WHERE status IN ('pending', 'cancelling')
        AND created_at > now() - make_interval(secs => :excluded_age::double precision)
    ORDER BY created_at LIMIT :limit
) AS open;

-- name: read
-- The fields of an order that its jobs read.
SELECT id, client_id, status, payment_id, amount, currency, payment_method FROM orders WHERE id = :order_id;

-- name: lock_by_payment
-- Lock the order of the payment :payment_id.
SELECT id, client_id, status, amount, payment_version, reason FROM orders WHERE payment_id = :payment_id FOR UPDATE;

-- name: record_payment
-- Record the newest status of an order's payment, if this status does not change the order's status.
UPDATE orders SET payment_version = :payment_version, paid_amount = :paid_amount, updated_at = now()
WHERE id = :order_id;

-- name: settle
-- Record the newest status of an order's payment, and move the order to the status :target, if the order's status is
-- one of :sources. The order's version increases by one, because the move has an event.
UPDATE orders
SET payment_version = :payment_version, paid_amount = :paid_amount, updated_at = now(),
    status = :target, version = version + 1, reason = :reason
WHERE id = :order_id AND status = ANY (:sources)
RETURNING id, client_id, customer_email, status, amount, currency, reason, version,
    CAST(extract(epoch FROM updated_at - created_at) AS float8) AS seconds;
