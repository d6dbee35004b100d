-- The outbox' statements. `publish` runs in a service's transaction; the others on the relay's own connection, whose
-- session holds the lock of the one leader.

-- name: publish
-- An event, in the transaction of the change that it tells of.
INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload, traceparent, debug)
VALUES (
    :stream, :type, :schema, :aggregate_id, :aggregate_version, CAST(:payload AS jsonb), CAST(:traceparent AS text),
    CAST(:debug AS text)
)
RETURNING event_id;

-- name: lead
-- Become the one relay of this database, or not. The lock ends with the session.
SELECT pg_try_advisory_lock(hashtextextended('chassis.outbox', 0));

-- name: positions
-- Per stream: what Redis must still know. A stream with rows but without a position is new. It looks at some of the
-- unpublished rows only, so that its cost is bounded: a stream that it misses comes up once those are published.
SELECT COALESCE(p.stream, o.stream) AS stream, p.epoch::text AS epoch, p.last_id
FROM stream_position p
FULL JOIN (
    SELECT DISTINCT stream FROM (SELECT stream FROM outbox WHERE published_at IS NULL LIMIT 1000) AS waiting
) o ON o.stream = p.stream;

-- name: unpublished
-- The next $2 events of stream $1 in the order they were written, each as the envelope that goes out.
SELECT seq, (jsonb_build_object(
    'event_id', event_id, 'type', type, 'schema', schema, 'aggregate_id', aggregate_id,
    'aggregate_version', aggregate_version, 'occurred_at', occurred_at, 'traceparent', traceparent, 'payload', payload
) || CASE WHEN debug IS NULL THEN '{}' ELSE jsonb_build_object('debug', debug) END)::text AS event
FROM outbox
WHERE published_at IS NULL AND stream = $1
ORDER BY seq
LIMIT $2;

-- name: mark
-- After publishing rows $2 of stream $1: mark them, and remember the last id that Redis gave (in the same statement).
WITH marked AS (
    UPDATE outbox SET published_at = now() WHERE seq = ANY ($2::bigint[])
)
UPDATE stream_position SET last_id = $3 WHERE stream = $1;

-- name: restart
-- Redis has forgotten stream $1: begin epoch $2, and publish every row again that is still kept.
WITH unmarked AS (
    UPDATE outbox SET published_at = NULL WHERE stream = $1 AND published_at IS NOT NULL RETURNING seq
), begun AS (
    INSERT INTO stream_position (stream, epoch, last_id) VALUES ($1, $2::uuid, '0-0')
    ON CONFLICT (stream) DO UPDATE SET epoch = EXCLUDED.epoch, last_id = EXCLUDED.last_id
)
SELECT count(*) FROM unmarked;

-- name: lag
-- Seconds that the oldest unpublished event has waited, and how many wait.
SELECT COALESCE(extract(epoch FROM now() - min(occurred_at)), 0)::float8 AS seconds, count(*) AS events
FROM outbox WHERE published_at IS NULL;

-- name: prune
-- Forget events published more than $1 seconds ago. It looks at the oldest $2 rows only, so that its cost is bounded.
WITH oldest AS (
    SELECT seq, published_at FROM outbox ORDER BY seq LIMIT $2
)
DELETE FROM outbox USING oldest
WHERE outbox.seq = oldest.seq AND oldest.published_at < now() - make_interval(secs => $1::float8);
