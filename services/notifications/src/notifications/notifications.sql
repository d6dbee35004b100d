-- The statements that run for each event, mail and webhook. The driver prepares each statement once per connection.

-- name: last_version
-- The version of the order's latest event for which a mail was written, or 0 before the first mail. Locks the row that
-- stores this version until the transaction ends.
INSERT INTO order_progress AS progress (order_id, last_version) VALUES (:order_id, 0)
ON CONFLICT (order_id) DO UPDATE SET last_version = progress.last_version
RETURNING last_version;

-- name: write_mail
-- Insert the mail of an order's event, and record the event's version as the order's last version. Returns the mail's
-- id.
WITH progress AS (
    UPDATE order_progress SET last_version = :version WHERE order_id = :order_id
)
INSERT INTO mail (event_id, order_id, version, client_id, event_type, recipient, subject, text)
VALUES (:event_id, :order_id, :version, :client_id, :event_type, :recipient, :subject, :text)
RETURNING id;

-- name: write_deliveries
-- Insert a delivery for each endpoint of the client that subscribes to this type of event. Returns the endpoints' ids.
INSERT INTO webhook_delivery (endpoint_id, client_id, event_id, event_type, order_id, body, traceparent)
SELECT id, client_id, CAST(:event_id AS uuid), :event_type, CAST(:order_id AS uuid), :body, :traceparent
FROM webhook_endpoint
WHERE client_id = :client_id AND is_enabled AND deleted_at IS NULL AND :event_type = ANY (events)
ORDER BY id
RETURNING endpoint_id;

-- name: read_mail
-- A mail, and whether it must wait, because an earlier mail of its order is still pending. A notice (a mail that
-- belongs to no order) has no version, so a notice never waits.
SELECT event_id, recipient, subject, text, status, EXISTS (
    SELECT FROM mail AS earlier
    WHERE earlier.order_id = mail.order_id AND earlier.version < mail.version AND earlier.status = 'pending'
) AS must_wait
FROM mail WHERE id = :mail_id;

-- name: settle_mail
-- Mark a mail as sent or dead, if its status is one of :sources.
UPDATE mail SET status = :status, reason = :reason, settled_at = now()
WHERE id = :mail_id AND status = ANY (:sources)
RETURNING order_id;

-- name: lock_endpoint
-- Lock an endpoint's row. The lock does not prevent other transactions from adding deliveries to the endpoint's queue,
-- because an insert only locks the endpoint's key (`FOR KEY SHARE`).
SELECT id, client_id, url, is_enabled, contact_email, failing_since, is_suspect, secret,
    CASE WHEN old_secret_until > now() THEN old_secret END AS old_secret, now() AS now
FROM webhook_endpoint WHERE id = :endpoint_id FOR NO KEY UPDATE;

-- name: begin_attempt
-- Begin an attempt at the first pending delivery of an endpoint's queue, if the delivery is due. Only the first pending
-- delivery may be sent, so that a customer gets the events of an order in sequence. No other attempt at the delivery
-- begins for :lease.
UPDATE webhook_delivery SET attempts = attempts + 1, next_attempt_at = now() + CAST(:lease AS interval)
WHERE id = ANY (ARRAY(
    SELECT id FROM webhook_delivery WHERE endpoint_id = :endpoint_id AND status = 'pending' ORDER BY sequence LIMIT 1
)) AND next_attempt_at <= now()
RETURNING id AS delivery_id, attempts AS number, body, traceparent;

-- name: next_attempt_at
-- The time from which the next attempt at the first pending delivery of an endpoint's queue may begin.
SELECT next_attempt_at FROM webhook_delivery
WHERE endpoint_id = :endpoint_id AND status = 'pending' ORDER BY sequence LIMIT 1;

-- name: record_attempt
-- Record the answer to attempt :number. Returns no row if a later attempt has begun, or if the delivery is no longer
-- pending.
UPDATE webhook_delivery
SET status = :status, last_status = :last_status, reason = :reason,
    next_attempt_at = now() + CAST(:delay AS interval),
    settled_at = CASE WHEN :status = 'pending' THEN NULL ELSE now() END
WHERE id = :delivery_id AND status = 'pending' AND attempts = :number
RETURNING id;
