-- The inbox' statements, and those of dead events. `receive` to `release` run in the transaction of the handler's effects.

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
-- An event that this consumer cannot handle, as it was read, and why. One that is dead already keeps its number: it was
-- replayed, or published again.
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
-- Dead events by number, by stream or all, those already asked for included.
SELECT id FROM dead_event
WHERE (CAST(:id AS bigint) IS NULL OR id = :id) AND (CAST(:stream AS text) IS NULL OR stream = :stream)
ORDER BY id;

-- name: ask_for_replay
UPDATE dead_event SET replay_at = now() WHERE id = ANY (CAST(:ids AS bigint[]));

-- name: take_replayable
-- The first dead event that is to be replayed. It is asked for no longer: it gets one try.
UPDATE dead_event SET replay_at = NULL
WHERE id = ANY (ARRAY(
    SELECT id FROM dead_event
    WHERE consumer = :consumer AND replay_at IS NOT NULL
    ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
))
RETURNING id, stream, entry_id, event;

-- name: forget_dead
-- A dead event that was replayed and is dead no longer.
DELETE FROM dead_event WHERE id = :id;

-- name: sample
-- How long the oldest held event has waited for the ones before it (seconds), and how many events are dead.
SELECT
    (
        SELECT COALESCE(extract(epoch FROM now() - min(received_at)), 0)::float8
        FROM inbox WHERE consumer = :consumer AND status = 'held'
    ) AS held_seconds,
    (SELECT count(*) FROM dead_event WHERE consumer = :consumer) AS dead;

-- name: prune
-- Forget event ids received more than :retention seconds ago, :count at most; what is held stays. Answers how many.
WITH forgotten AS (
    DELETE FROM inbox
    WHERE consumer = :consumer AND event_id = ANY (ARRAY(
        SELECT event_id FROM inbox
        WHERE consumer = :consumer AND status = 'handled'
            AND received_at < now() - make_interval(secs => CAST(:retention AS double precision))
        LIMIT :count
    ))
    RETURNING event_id
)
SELECT count(*) FROM forgotten;
