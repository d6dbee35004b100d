-- The inbox' statements: each runs in the transaction of the handler's effects.

-- name: receive
-- Whether this consumer sees the event for the first time. While another transaction handles it, this one waits for
-- its end.
INSERT INTO inbox (consumer, event_id) VALUES (:consumer, :event_id) ON CONFLICT DO NOTHING RETURNING event_id;

-- name: hold
-- Keep an event that came too early, with its content.
UPDATE inbox
SET status = 'held', aggregate_id = :aggregate_id, aggregate_version = :aggregate_version, event = CAST(:event AS jsonb)
WHERE consumer = :consumer AND event_id = :event_id;

-- name: held
-- The held events of an aggregate, in order.
SELECT event_id, aggregate_version, event::text AS event
FROM inbox
WHERE consumer = :consumer AND aggregate_id = :aggregate_id AND status = 'held'
ORDER BY aggregate_version;

-- name: release
-- Held events that are handled in this transaction.
UPDATE inbox
SET status = 'handled', aggregate_id = NULL, aggregate_version = NULL, event = NULL
WHERE consumer = :consumer AND event_id = ANY (CAST(:event_ids AS uuid[]));

-- name: bury
-- An event that this consumer cannot handle, as it was read, and why.
INSERT INTO dead_event (consumer, stream, entry_id, event, reason)
VALUES (:consumer, :stream, :entry_id, :event, :reason);

-- name: sample
-- How long the oldest held event has waited for the ones before it (seconds).
SELECT COALESCE(extract(epoch FROM now() - min(received_at)), 0)::float8
FROM inbox WHERE consumer = :consumer AND status = 'held';

-- name: prune
-- Forget event ids received more than :retention seconds ago, :count at most; what is held stays.
DELETE FROM inbox
WHERE (consumer, event_id) IN (
    SELECT consumer, event_id FROM inbox
    WHERE consumer = :consumer AND status = 'handled'
        AND received_at < now() - make_interval(secs => CAST(:retention AS double precision))
    LIMIT :count
);
