-- The outbox's statements. `publish` runs in a service's transaction. The other statements run on the relay's
-- connection, whose session holds the lock that makes this relay the leader.

-- name: publish
-- Store an event, in the transaction of the change that it reports.
INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload, traceparent, debug)
VALUES (
    :event_stream, :event_type, :event_schema, :event_aggregate_id, :event_aggregate_version,
    CAST(:event_payload AS jsonb), CAST(:event_traceparent AS text), CAST(:event_debug AS text)
);

-- name: tie_to_silence
-- Make PostgreSQL end this session after $1 milliseconds without a statement. A working relay sends statements more
-- often, so a silent relay's process is suspended, or its host has disappeared. The end of the session frees the
-- leader's lock.
SELECT set_config('idle_session_timeout', $1, false);

-- name: lead
-- Try to become the leader: only the relay that holds this lock publishes. The end of the session frees the lock.
SELECT pg_try_advisory_lock(hashtextextended('chassis.outbox', 0));

-- name: next_term
-- Take the term of the new leader: a number that is one higher than the previous leader's term. Returns the term and
-- the id of this database. The term is a column and not a sequence, because `raise_term` sets the term, and the
-- database role of the service's processes may not set a sequence.
INSERT INTO installation (relay_term) VALUES (1)
ON CONFLICT (is_only) DO UPDATE SET relay_term = installation.relay_term + 1
RETURNING relay_term, id::text;

-- name: raise_term
-- Increase the stored term to $1, so that the next leader takes a higher term than $1. Redis stores the term $1
-- although this database has not counted that far: the database was restored from a backup, or an earlier release took
-- the term from a clock.
UPDATE installation SET relay_term = greatest(relay_term, $1);

-- name: positions
-- The position of each stream, which contains the id of the last entry that Redis must have. A stream that has events
-- but no position is new, and the result has NULL as its epoch. The statement looks for streams among the unpublished
-- events from seq $1 (`Floors.new_streams_from`). It reads one event of each stream, and then looks for the next stream
-- in the index.
WITH RECURSIVE waiting AS (
    (SELECT stream FROM outbox WHERE published_at IS NULL AND seq >= $1 ORDER BY stream LIMIT 1)
    UNION ALL
    SELECT (
        SELECT stream FROM outbox
        WHERE published_at IS NULL AND seq >= $1 AND stream > waiting.stream ORDER BY stream LIMIT 1
    )
    FROM waiting WHERE waiting.stream IS NOT NULL
)
SELECT COALESCE(p.stream, o.stream) AS stream, p.epoch::text AS epoch, p.last_id, p.repeat_after
FROM stream_position p FULL JOIN (SELECT stream FROM waiting WHERE stream IS NOT NULL) o ON o.stream = p.stream;

-- name: next
-- The next $2 events of stream $1 in the order of `seq`, each as JSON (the envelope). No unpublished event has a `seq`
-- below $4, the stream's floor (`floors.py`). While the relay publishes the stream again, the statement returns the
-- published events after seq $3. Otherwise $3 is null, and the statement returns the unpublished events. The relay thus
-- repeats all published events before it publishes new ones. This order is right for each aggregate. The events of an
-- aggregate commit one after the other, because each transaction locks the aggregate's row. So the aggregate's
-- published events are older than its unpublished events.
--
-- The statement also does the work of the statement `mark` for the events that the relay published last, which saves a
-- transaction. A statement does not see its own changes, so the condition on $5 excludes the rows that this statement
-- marks.
--
-- The expression `stream || ''` keeps PostgreSQL from using the index that begins with `stream`. With this index,
-- PostgreSQL would read all rows of the stream. Instead, PostgreSQL uses the primary key, even before the table has
-- statistics.
WITH marked AS (
    UPDATE outbox SET published_at = now() WHERE seq = ANY ($5::bigint[]) AND published_at IS NULL
), moved AS (
    UPDATE stream_position SET last_id = $6, repeat_after = $3
    WHERE stream = $1 AND (last_id, repeat_after) IS DISTINCT FROM ($6, $3)
), waiting AS MATERIALIZED (
    SELECT * FROM outbox
    WHERE $3::bigint IS NULL AND published_at IS NULL AND stream = $1 AND seq >= $4 AND seq <> ALL ($5::bigint[])
    ORDER BY seq LIMIT $2
), repeated AS MATERIALIZED (
    SELECT * FROM outbox
    WHERE $3 IS NOT NULL AND published_at IS NOT NULL AND stream || '' = $1 AND seq > $3
    ORDER BY seq LIMIT $2
)
SELECT seq, published_at IS NOT NULL AS is_repeated, (jsonb_build_object(
    'event_id', event_id, 'type', type, 'schema', schema, 'aggregate_id', aggregate_id,
    'aggregate_version', aggregate_version, 'occurred_at', occurred_at, 'traceparent', traceparent, 'payload', payload
) || CASE WHEN debug IS NULL THEN '{}' ELSE jsonb_build_object('debug', debug) END)::text AS event
FROM (SELECT * FROM waiting UNION ALL SELECT * FROM repeated) AS following
ORDER BY seq;

-- name: mark
-- Mark rows $2 of stream $1 as published, and store the id that Redis gave the last entry ($3). After Redis has lost a
-- stream, the relay publishes all its stored rows again. $4 is then the seq of the row that was repeated last. A row
-- that is published again keeps its first `published_at`, which decides when the row is deleted. With a later
-- `published_at`, the outbox could store the row longer than a consumer's inbox stores the event's id, and the consumer
-- would handle the event again.
WITH marked AS (
    UPDATE outbox SET published_at = now() WHERE seq = ANY ($2::bigint[]) AND published_at IS NULL
)
UPDATE stream_position SET last_id = $3, repeat_after = $4 WHERE stream = $1;

-- name: restart
-- Store $2 as the new epoch of stream $1 (an id that Redis and this database both store), because Redis has lost
-- entries of the stream or never had the stream. The relay then publishes every stored row of the stream.
INSERT INTO stream_position (stream, epoch, last_id, repeat_after) VALUES ($1, $2::uuid, '', 0)
ON CONFLICT (stream) DO UPDATE
SET epoch = EXCLUDED.epoch, last_id = EXCLUDED.last_id, repeat_after = EXCLUDED.repeat_after;

-- name: lag
-- The seconds that the oldest unpublished event has waited, and the number of unpublished events. To bound the cost,
-- the statement reads at most 100,000 rows, and begins at seq $1. This is the lowest floor of all streams: no
-- unpublished event has a lower `seq` (`floors.py`).
SELECT COALESCE(extract(epoch FROM now() - min(occurred_at)), 0)::float8 AS seconds, count(*) AS events
FROM (
    SELECT occurred_at FROM outbox WHERE published_at IS NULL AND seq >= $1 ORDER BY stream, seq LIMIT 100000
) AS waiting;

-- name: writers
-- The last visible `seq`, and the transactions that hold a writer's lock (ROW EXCLUSIVE) on the outbox. A transaction
-- gets this lock before it gets a `seq`, and holds the lock until the transaction ends. PostgreSQL reads the locks
-- after the statement's snapshot. So the rows of a transaction that holds no lock any more are visible to the next
-- statement, but perhaps not to this one.
SELECT
    COALESCE((SELECT max(seq) FROM outbox), 0) AS last_seq,
    ARRAY(
        SELECT DISTINCT virtualtransaction FROM pg_locks
        WHERE locktype = 'relation' AND relation = 'outbox'::regclass AND mode = 'RowExclusiveLock' AND granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND pid IS DISTINCT FROM pg_backend_pid()
    ) AS writers;

-- name: open_transactions
-- The other open transactions of this database. Each open transaction holds the lock on its own id. The result leaves
-- out the transactions of autovacuum, which have no user and do not hold vacuum back. The result includes prepared
-- transactions, which have no session.
SELECT ARRAY(
    SELECT DISTINCT virtualtransaction FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'virtualxid' AND mode = 'ExclusiveLock' AND granted
        AND datname = current_database() AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT gid FROM pg_prepared_xacts WHERE database = current_database()
);

-- name: prune
-- Delete events that were published more than $1 seconds ago. Only the oldest $2 rows are read, which bounds the cost.
WITH deleted AS (
    DELETE FROM outbox
    WHERE seq = ANY (ARRAY(SELECT seq FROM outbox ORDER BY seq LIMIT $2))
        AND published_at < now() - make_interval(secs => $1::float8)
    RETURNING seq
)
SELECT count(*) FROM deleted;
