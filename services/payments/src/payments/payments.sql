-- The statements that most payments run. The driver prepares each statement once per connection. Each statement that
-- returns a payment returns the fields of `PaymentRow` (`use_cases/states.py`).

-- name: request
-- Insert a payment. Returns no row if the payment, or another payment of the order, exists already.
INSERT INTO payment (id, order_id, amount, currency, payment_method)
VALUES (:payment_id, :order_id, :amount, :currency, :payment_method)
ON CONFLICT DO NOTHING
RETURNING id, order_id, amount, currency, payment_method, status, void, provider_charge_id, version, reason;

-- name: bury
-- Insert a payment as canceled: the orders service voids it (no money may move), although the request for the payment
-- has not arrived yet. If that request arrives later, it finds this row, and the payment is not charged. Returns no row
-- if this payment, or another payment of the same order, exists already.
INSERT INTO payment (id, order_id, amount, currency, status, reason, version)
VALUES (:payment_id, :order_id, :amount, :currency, 'canceled', 'voided', 1)
ON CONFLICT DO NOTHING
RETURNING id, order_id, amount, currency, payment_method, status, void, provider_charge_id, version, reason;

-- name: read
SELECT id, order_id, amount, currency, payment_method, status, void, provider_charge_id, version, reason
FROM payment WHERE id = :payment_id;

-- name: lock
SELECT id, order_id, amount, currency, payment_method, status, void, provider_charge_id, version, reason
FROM payment WHERE id = :payment_id FOR UPDATE;

-- name: begin_charging
-- Move a payment to `submitting` before an attempt to charge it. Returns no row if the payment's status does not allow
-- a charge. Also returns no row if an open attempt (whose POST may have had an effect) is older than :post_window,
-- because the provider may soon forget the idempotency key.
UPDATE payment SET status = 'submitting', updated_at = now()
WHERE id = :payment_id AND status IN ('created', 'submitting') AND NOT EXISTS (
    SELECT FROM charge_attempt
    WHERE payment_id = :payment_id AND outcome = 'open' AND created_at < now() - CAST(:post_window AS interval)
)
RETURNING id;

-- name: add_attempt
-- Add the next attempt to charge a payment. The transaction holds the lock on the payment's row since `begin_charging`,
-- so no other transaction takes the same number. This statement is separate from `begin_charging`, because a statement
-- does not see rows that were committed while it waited for a lock.
INSERT INTO charge_attempt (payment_id, n)
VALUES (:payment_id, (SELECT coalesce(max(n), 0) + 1 FROM charge_attempt WHERE payment_id = :payment_id))
RETURNING n;

-- name: move
-- Move a payment to the status :target, if its status is one of :sources. :events is 1 if the target status has an
-- event, and 0 otherwise. If :reason is NULL, the payment keeps its reason.
UPDATE payment
SET status = :target, reason = coalesce(:reason, reason), version = version + :events, updated_at = now()
WHERE id = :payment_id AND status = ANY (:sources)
RETURNING id, order_id, amount, currency, payment_method, status, void, provider_charge_id, version, reason;

-- name: apply_charge_report
-- Move a payment to the status :target, which the provider reports for its charge. A late report moves nothing: the
-- payment's status is not one of :sources, or a newer version of the charge is known. A report with the known version
-- is not late, because an earlier report may have stored this version without changing the status. If the provider
-- breaks its promise and makes two charges for a payment, only the versions of the first charge count. If the report is
-- the answer to attempt :n, the statement also records :answer for this attempt.
WITH answered AS (
    UPDATE charge_attempt SET answer = :answer, ended_at = now()
    WHERE payment_id = :payment_id AND n = CAST(:n AS bigint)
)
UPDATE payment
SET status = :target, reason = :reason, version = version + :events, updated_at = now(),
    provider_charge_id = coalesce(provider_charge_id, :charge_id),
    charge_version = CASE WHEN coalesce(provider_charge_id, :charge_id) = :charge_id
        THEN greatest(charge_version, :object_version) ELSE charge_version END
WHERE id = :payment_id AND status = ANY (:sources)
    AND (
        NOT coalesce(provider_charge_id, :charge_id) = :charge_id
        OR charge_version <= coalesce(:object_version, charge_version)
    )
RETURNING id, order_id, amount, currency, payment_method, status, void, provider_charge_id, version, reason;

-- name: note_charge
-- Store the id and the newest version of a payment's charge, which the provider has reported too late to move the
-- payment. Returns no row if there is no payment with this id.
UPDATE payment
SET provider_charge_id = coalesce(provider_charge_id, :charge_id),
    charge_version = CASE WHEN coalesce(provider_charge_id, :charge_id) = :charge_id
        THEN greatest(charge_version, :object_version) ELSE charge_version END
WHERE id = :payment_id
RETURNING id;

-- name: backlog
-- Measure the backlog of payments. `waiting`: the number of open payments (not captured, failed, canceled or refunded),
-- up to :limit. `oldest_age`: the age of the oldest of them in seconds. Payments older than :excluded_age seconds do
-- not count. `done`: the number of payments that were captured or ended within the last :window seconds. Times later
-- than now do not count: they are from before the clock was set back.
SELECT count(*) AS waiting,
    coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_age,
    (
        SELECT count(*) FROM payment
        WHERE status IN ('captured', 'failed', 'canceled', 'refunded')
            AND updated_at BETWEEN now() - make_interval(secs => :window::double precision) AND now()
    ) AS done
FROM (
    SELECT created_at FROM payment
    WHERE status IN ('created', 'submitting', 'submitted')
        AND created_at > now() - make_interval(secs => :excluded_age::double precision)
    LIMIT :limit
) AS open;
