-- The inbox's statements, and those of dead events. `receive` to `release` run in the transaction of the handler's
-- effects.

-- name: receive
-- Record that this consumer has received the event. No row comes back if it had before. While another transaction
-- handles the event, this statement waits for its end.
INSERT INTO inbox (consumer, event_id) VALUES (:consumer, :event_id) ON CONFLICT DO NOTHING RETURNING event_id;

-- name: hold
-- Hold an event that arrived too early, with its content.
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
-- Mark held events as handled: this transaction handles them.
UPDATE inbox
SET status = 'handled', aggregate_id = NULL, aggregate_version = NULL, event = NULL
WHERE consumer = :consumer AND event_id = ANY (CAST(:event_ids AS uuid[]));

-- name: bury
-- Store an event that this consumer cannot handle, as it was read, with the reason. An event that is already dead was
-- replayed or published again, and keeps its number.
WITH known AS (
    UPDATE dead_event SET reason = :reason, died_at = now(), replay_at = NULL
    WHERE consumer = :consumer AND event = :event
    RETURNING id
)
INSERT INTO dead_event (consumer, stream, entry_id, event, reason)
SELECT :consumer, :stream, :entry_id, :event, :reason WHERE NOT EXISTS (SELECT FROM known);

-- name: list_dead
-- The oldest :count dead events.
SELECT id, consumer, stream, entry_id, event, reason, died_at, replay_at
FROM dead_event ORDER BY id LIMIT :count;

-- name: show_dead
SELECT id, consumer, stream, entry_id, event, reason, died_at, replay_at FROM dead_event WHERE id = :id;

-- name: find_dead
-- Dead events by number or by stream, or all. Those that already wait for their replay are included.
SELECT id FROM dead_event
WHERE (CAST(:id AS bigint) IS NULL OR id = :id) AND (CAST(:stream AS text) IS NULL OR stream = :stream)
ORDER BY id;

-- name: ask_for_replay
UPDATE dead_event SET replay_at = now() WHERE id = ANY (CAST(:ids AS bigint[]));

-- name: take_replayable
-- Take the first dead event whose replay was requested. The request is cleared, so the event is tried once.
UPDATE dead_event SET replay_at = NULL
WHERE id = ANY (ARRAY(
    SELECT id FROM dead_event
    WHERE consumer = :consumer AND replay_at IS NOT NULL
    ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
))
RETURNING id, stream, entry_id, event;

-- name: forget_dead
-- Delete a dead event whose replay succeeded.
DELETE FROM dead_event WHERE id = :id;

-- name: sample
-- The seconds that the oldest held event has waited for an earlier one, and the number of dead events.
SELECT
    (
        SELECT COALESCE(extract(epoch FROM now() - min(received_at)), 0)::float8
        FROM inbox WHERE consumer = :consumer AND status = 'held'
    ) AS held_seconds,
    (SELECT count(*) FROM dead_event WHERE consumer = :consumer) AS dead;

-- name: prune
-- Delete ids of events received more than :retention seconds ago, up to :count, except held ones. Returns their number.
WITH deleted AS (
    DELETE FROM inbox
    WHERE consumer = :consumer AND event_id = ANY (ARRAY(
        SELECT event_id FROM inbox
        WHERE consumer = :consumer AND status = 'handled'
            AND received_at < now() - make_interval(secs => CAST(:retention AS double precision))
        LIMIT :count
    ))
    RETURNING event_id
)
SELECT count(*) FROM deleted;
