-- The outbox's statements. `publish` runs in a service's transaction. The others run on the relay's own connection,
-- whose session holds the lock that makes this relay the leader.

-- name: publish
-- Store an event, in the transaction of the change that it reports.
INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload, traceparent, debug)
VALUES (
    :event_stream, :event_type, :event_schema, :event_aggregate_id, :event_aggregate_version,
    CAST(:event_payload AS jsonb), CAST(:event_traceparent AS text), CAST(:event_debug AS text)
);

-- name: tie_to_silence
-- Have the server end this session, which frees its lock, after $1 milliseconds without a statement: the process is
-- then suspended, or its host has disappeared.
SELECT set_config('idle_session_timeout', $1, false);

-- name: lead
-- Try to become the leader, the one relay of this database that publishes. The lock ends with the session.
SELECT pg_try_advisory_lock(hashtextextended('chassis.outbox', 0));

-- name: next_term
-- The term of the leader that holds the lock, one higher than its predecessor's, and the id of this installation. The
-- term is a column rather than a sequence, since only a sequence's owner may raise it.
INSERT INTO installation (relay_term) VALUES (1)
ON CONFLICT (is_only) DO UPDATE SET relay_term = installation.relay_term + 1
RETURNING relay_term, id::text;

-- name: raise_term
-- Raise the term to $1, which Redis knows although no later leader used it: this database was restored from a backup,
-- or the term came from a clock. The next leader then has a higher term.
UPDATE installation SET relay_term = greatest(relay_term, $1);

-- name: positions
-- The position of each stream: the last entry that Redis must know. A stream with rows but without a position is new.
-- Only some unpublished rows are read, which bounds the cost. A stream that they miss is found once those are
-- published.
SELECT COALESCE(p.stream, o.stream) AS stream, p.epoch::text AS epoch, p.last_id, p.repeat_after
FROM stream_position p
FULL JOIN (
    SELECT DISTINCT stream FROM (SELECT stream FROM outbox WHERE published_at IS NULL LIMIT 1000) AS waiting
) o ON o.stream = p.stream;

-- name: next
-- The next $2 events of stream $1 in the order of `seq`, each as its envelope. While the stream is published again,
-- these are the published events after seq $3. Otherwise $3 is null, and these are the unpublished events. Published
-- events were committed before unpublished ones, whatever their seq, so the events of an aggregate go out in order. `||
-- ''` makes PostgreSQL use the primary key even before the table has statistics. The index that begins with the stream
-- would read all of the stream's rows.
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
-- Mark rows $2 of stream $1 as published. The same statement stores the last id that Redis gave ($3) and, while the
-- stream is published again, the seq that has been reached ($4). A row that is published again keeps its first date:
-- the row's retention and the inbox's retention of its id count from then.
WITH marked AS (
    UPDATE outbox SET published_at = now() WHERE seq = ANY ($2::bigint[]) AND published_at IS NULL
)
UPDATE stream_position SET last_id = $3, repeat_after = $4 WHERE stream = $1;

-- name: restart
-- Begin epoch $2 of stream $1, which Redis has lost or never had. Every row that is still stored is published in it.
INSERT INTO stream_position (stream, epoch, last_id, repeat_after) VALUES ($1, $2::uuid, '', 0)
ON CONFLICT (stream) DO UPDATE
SET epoch = EXCLUDED.epoch, last_id = EXCLUDED.last_id, repeat_after = EXCLUDED.repeat_after;

-- name: lag
-- The seconds that the oldest unpublished event has waited, and the number of unpublished events. At most 100,000 rows
-- are read, which bounds the cost.
SELECT COALESCE(extract(epoch FROM now() - min(occurred_at)), 0)::float8 AS seconds, count(*) AS events
FROM (SELECT occurred_at FROM outbox WHERE published_at IS NULL ORDER BY stream, seq LIMIT 100000) AS waiting;

-- name: prune
-- Delete events that were published more than $1 seconds ago. Only the oldest $2 rows are read, which bounds the cost.
WITH deleted AS (
    DELETE FROM outbox
    WHERE seq = ANY (ARRAY(SELECT seq FROM outbox ORDER BY seq LIMIT $2))
        AND published_at < now() - make_interval(secs => $1::float8)
    RETURNING seq
)
SELECT count(*) FROM deleted;
