-- The hot statements: what every placed order and every order read costs goes through the driver as it stands here.

-- name: claim
-- Hold key $2 of client $1 until the transaction ends, and look whether it was answered before; with an id and the time
-- for an order that is placed now. Look-up and lock share a snapshot: whoever committed between the two is not seen, and
-- then the record's primary key refuses `place`.
SELECT pg_try_advisory_xact_lock(hashtextextended($1 || chr(31) || $2, 0)) AS is_held,
    record.fingerprint, record.status, record.body, uuidv7() AS order_id, now() AS placed_at
FROM (VALUES (1)) AS always LEFT JOIN idempotency_record AS record ON record.client = $1 AND record.key = $2;

-- name: place
-- Protocol, row 1, in one round trip: the order, its lines, its first job, its first event, and the answer's record.
-- $1 order's id, $2 time of the transaction, $3 client, $4 idempotency key, $5 e-mail, $6 amount, $7 currency,
-- $8 payment method; $9 to $11 the lines' products, quantities and unit prices;
-- $12 job's name, $13 queue, $14 priority, $15 payload, $16 version, $17 attempts, $18 traceparent, $19 debug header;
-- $20 stream, $21 event's type, $22 version, $23 payload, $24 traceparent; $25 fingerprint, $26 status, $27 body.
WITH placed AS (
    INSERT INTO orders (
        id, created_at, updated_at, client_id, idempotency_key, customer_email, amount, currency, payment_method
    )
    VALUES ($1, $2, $2, $3, $4, $5, $6, $7, $8)
), lines AS (
    INSERT INTO order_line (order_id, position, product_id, quantity, unit_price)
    SELECT $1, line.position, line.product_id, line.quantity, line.unit_price
    FROM unnest($9::text[], $10::bigint[], $11::bigint[])
        WITH ORDINALITY AS line (product_id, quantity, unit_price, position)
), first_job AS (
    INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, unique_key, traceparent, debug)
    VALUES ($12, $13, $14, $15::jsonb, $16, $17, $1::text, $18, $19)
), first_event AS (
    INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload, traceparent, debug)
    VALUES ($20, $21, $22, $1::text, 1, $23::jsonb, $24, $19)
)
INSERT INTO idempotency_record (client, key, fingerprint, status, body) VALUES ($3, $4, $25, $26, $27);

-- name: find
-- Order $1 with its lines, a row for each, by position.
SELECT o.client_id, o.id, o.status, o.amount, o.currency, o.reason, o.created_at, o.updated_at,
    l.product_id, l.quantity, l.unit_price
FROM orders o JOIN order_line l ON l.order_id = o.id
WHERE o.id = $1
ORDER BY l.position;
