-- The statements that run for each webhook. The driver prepares each statement once per connection.

-- name: store
-- Store a provider's event. Returns its row's id, or no row if the event is stored already.
INSERT INTO provider_event (provider, event_id, body) VALUES (:provider, :event_id, :body)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: lock
SELECT id, provider, event_id, body, status FROM provider_event WHERE id = :id FOR UPDATE;

-- name: move
-- Move a stored event to another status. The transaction holds the lock on the event's row.
UPDATE provider_event SET status = :status, reason = :reason WHERE id = :id;
