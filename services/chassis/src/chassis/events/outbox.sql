-- The outbox' statements. `publish` runs in a service's transaction; the others on the relay's own connection, whose
-- session holds the lock of the one leader.

-- name: publish
-- An event, in the transaction of the change that it tells of.
INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload, traceparent, debug)
VALUES (
    :event_stream, :event_type, :event_schema, :event_aggregate_id, :event_aggregate_version,
    CAST(:event_payload AS jsonb), CAST(:event_traceparent AS text), CAST(:event_debug AS text)
)
RETURNING event_id;

-- name: tie_to_silence
-- The server ends this session, and frees its lock, once it has asked nothing for $1 milliseconds: its process stands
-- still, or its host is gone without a word.
SELECT set_config('idle_session_timeout', $1, false);

-- name: lead
-- Become the one relay of this database, or not. The lock ends with the session.
SELECT pg_try_advisory_lock(hashtextextended('chassis.outbox', 0));

-- name: next_term
-- The term of the leader that holds the lock, and the id of this installation. The term is one more than the last one's. A sequence by hand, since one of
-- PostgreSQL's can be raised by its owner only.
INSERT INTO installation (relay_term) VALUES (1)
ON CONFLICT (is_only) DO UPDATE SET relay_term = installation.relay_term + 1
RETURNING relay_term, id::text;

-- name: raise_term
-- Redis knows term $1, and no later leader has given it: this database was set back, or the term came from a clock.
-- The next leader has a higher one.
UPDATE installation SET relay_term = greatest(relay_term, $1);

-- name: positions
-- Per stream: what Redis must still know. A stream with rows but without a position is new. It looks at some of the
-- unpublished rows only, so that its cost is bounded: a stream that it misses comes up once those are published.
SELECT COALESCE(p.stream, o.stream) AS stream, p.epoch::text AS epoch, p.last_id, p.repeat_after
FROM stream_position p
FULL JOIN (
    SELECT DISTINCT stream FROM (SELECT stream FROM outbox WHERE published_at IS NULL LIMIT 1000) AS waiting
) o ON o.stream = p.stream;

-- name: next
-- The next $2 events of stream $1 in the order they were written, each as the envelope that goes out. While a stream
-- is repeated, the published ones after seq $3; else ($3 is null) the unpublished ones. So events of an aggregate go out
-- in order: all that is published was committed before what is not, whatever its seq. `|| ''` lets it go by the primary
-- key even while there are no statistics: by the index that begins with the stream it would read all of them.
WITH following AS (
    (
        SELECT * FROM outbox
        WHERE $3::bigint IS NULL AND published_at IS NULL AND stream = $1
        ORDER BY seq LIMIT $2
    )
    UNION ALL
    (
        SELECT * FROM outbox
        WHERE $3 IS NOT NULL AND published_at IS NOT NULL AND stream || '' = $1 AND seq > $3
        ORDER BY seq LIMIT $2
    )
)
SELECT seq, published_at IS NOT NULL AS is_repeated, (jsonb_build_object(
    'event_id', event_id, 'type', type, 'schema', schema, 'aggregate_id', aggregate_id,
    'aggregate_version', aggregate_version, 'occurred_at', occurred_at, 'traceparent', traceparent, 'payload', payload
) || CASE WHEN debug IS NULL THEN '{}' ELSE jsonb_build_object('debug', debug) END)::text AS event
FROM following
ORDER BY seq;

-- name: mark
-- After publishing rows $2 of stream $1: mark them, and remember in the same statement the last id that Redis gave
-- ($3) and, while the stream is repeated, how far that is ($4). A row that goes out again keeps its first date, which
-- its retention and the consumers' memory of its id count from.
WITH marked AS (
    UPDATE outbox SET published_at = now() WHERE seq = ANY ($2::bigint[]) AND published_at IS NULL
)
UPDATE stream_position SET last_id = $3, repeat_after = $4 WHERE stream = $1;

-- name: restart
-- Redis has forgotten stream $1, or never knew it: epoch $2 begins with what is published next, which is every row
-- that is still kept.
INSERT INTO stream_position (stream, epoch, last_id, repeat_after) VALUES ($1, $2::uuid, '', 0)
ON CONFLICT (stream) DO UPDATE
SET epoch = EXCLUDED.epoch, last_id = EXCLUDED.last_id, repeat_after = EXCLUDED.repeat_after;

-- name: lag
-- Seconds that the oldest unpublished event has waited, and how many wait; of a backlog it looks at 100,000, so that
-- its cost is bounded.
SELECT COALESCE(extract(epoch FROM now() - min(occurred_at)), 0)::float8 AS seconds, count(*) AS events
FROM (SELECT occurred_at FROM outbox WHERE published_at IS NULL ORDER BY stream, seq LIMIT 100000) AS waiting;

-- name: prune
-- Forget events published more than $1 seconds ago. It looks at the oldest $2 rows only, so that its cost is bounded.
WITH forgotten AS (
    DELETE FROM outbox
    WHERE seq = ANY (ARRAY(SELECT seq FROM outbox ORDER BY seq LIMIT $2))
        AND published_at < now() - make_interval(secs => $1::float8)
    RETURNING seq
)
SELECT count(*) FROM forgotten;
