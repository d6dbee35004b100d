-- The statements of the inbox and of dead events. `receive`, `hold`, `held` and `release` run in the transaction that
-- commits the handler's effects.

-- name: receive
-- Record that this consumer has received the event. Returns no row if this consumer had received the event before. If
-- another transaction is handling the event, this statement waits for the end of that transaction.
INSERT INTO inbox (consumer, event_id) VALUES (:consumer, :event_id) ON CONFLICT DO NOTHING RETURNING event_id;

-- name: hold
-- Mark an event as held, because an earlier event of its aggregate is missing, and store the held event's content.
UPDATE inbox
SET status = 'held', aggregate_id = :aggregate_id, aggregate_version = :aggregate_version, event = CAST(:event AS jsonb)
WHERE consumer = :consumer AND event_id = :event_id;

-- name: held
-- The held events of an aggregate, in the order of their versions.
SELECT event_id, aggregate_version, event::text AS event
FROM inbox
WHERE consumer = :consumer AND aggregate_id = :aggregate_id AND status = 'held'
ORDER BY aggregate_version;

-- name: release
-- Mark held events, which have waited for an earlier event, as handled, because this transaction applies them.
UPDATE inbox
SET status = 'handled', aggregate_id = NULL, aggregate_version = NULL, event = NULL
WHERE consumer = :consumer AND event_id = ANY (CAST(:event_ids AS uuid[]));

-- name: bury
-- Store the text of an event that this consumer cannot handle, with the reason. If the table contains the event
-- already, because it was replayed or published again, the event keeps its number.
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
-- The numbers of dead events: one event (:id), all events of a stream (:stream), or all events. The result includes
-- events whose replay was requested before.
SELECT id FROM dead_event
WHERE (CAST(:id AS bigint) IS NULL OR id = :id) AND (CAST(:stream AS text) IS NULL OR stream = :stream)
ORDER BY id;

-- name: ask_for_replay
UPDATE dead_event SET replay_at = now() WHERE id = ANY (CAST(:ids AS bigint[]));

-- name: take_replayable
-- Take the first dead event whose replay was requested. The statement clears the request, so the event is replayed only
-- once.
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
-- The seconds that the oldest held event has waited for an earlier event, and the number of dead events.
SELECT
    (
        SELECT COALESCE(extract(epoch FROM now() - min(received_at)), 0)::float8
        FROM inbox WHERE consumer = :consumer AND status = 'held'
    ) AS held_seconds,
    (SELECT count(*) FROM dead_event WHERE consumer = :consumer) AS dead;

-- name: prune
-- Delete up to :count ids of events that were received more than :retention seconds ago and are not held (do not wait
-- for an earlier event). Returns the number of deleted ids.
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
