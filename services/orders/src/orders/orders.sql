-- The hot statements: what most requests pay for. They go to the driver as they stand here, or through a session.

-- name: claim
-- Hold :key of :client until the transaction ends, and look whether it was answered before; with an id and the time for
-- an order that is placed now. Look-up and lock share a snapshot: what commits between the two is not seen, and then the
-- record's primary key refuses `place`.
SELECT pg_try_advisory_xact_lock(hashtextextended(:client || chr(31) || :key, 0)) AS is_held,
    record.fingerprint, record.status, record.body, uuidv7() AS order_id, now() AS placed_at
FROM (VALUES (1)) AS always LEFT JOIN idempotency_record AS record ON record.client = :client AND record.key = :key;

-- name: place
-- Protocol, row 1, in one round trip: the order, its lines, its first job, its first event and the answer's record.
-- What is inserted into job and outbox is what `enqueue` and `publish` insert.
WITH placed AS (
    INSERT INTO orders (
        id, created_at, updated_at, client_id, idempotency_key, customer_email, amount, currency, payment_method
    )
    VALUES (
        :order_id, :placed_at, :placed_at, :client, :key, :customer_email, :amount, :currency, :payment_method
    )
), lines AS (
    INSERT INTO order_line (order_id, position, product_id, quantity, unit_price)
    SELECT :order_id, line.position, line.product_id, line.quantity, line.unit_price
    FROM unnest(:products::text[], :quantities::bigint[], :prices::bigint[])
        WITH ORDINALITY AS line (product_id, quantity, unit_price, position)
), first_job AS (
    INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, unique_key, traceparent, debug)
    VALUES (
        :job_name, :job_queue, :job_priority, :job_payload::jsonb, :job_version, :job_max_attempts, :job_unique_key,
        :job_traceparent, :job_debug
    )
), first_event AS (
    INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload, traceparent, debug)
    VALUES (
        :event_stream, :event_type, :event_schema, :event_aggregate_id, :event_aggregate_version,
        :event_payload::jsonb, :event_traceparent, :event_debug
    )
)
INSERT INTO idempotency_record (client, key, fingerprint, status, body)
VALUES (:client, :key, :fingerprint, :status, :body);

-- name: find
-- Order :order_id of client :client with its lines, a row for each, by position. `|| ''` keeps it off the indexes that
-- begin with the client: as long as there are no statistics, it would read all orders of the client by one of them.
SELECT o.id, o.status, o.amount, o.currency, o.reason, o.created_at, o.updated_at,
    l.product_id, l.quantity, l.unit_price
FROM orders o JOIN order_line l ON l.order_id = o.id
WHERE o.id = :order_id AND o.client_id || '' = :client
ORDER BY l.position;
