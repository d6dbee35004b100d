-- The statements of idempotency keys. All statements except `prune` run in the transaction of the request's effect.

-- name: find
-- Lock :key of :client until the transaction ends, and look for the record of this key. PostgreSQL takes the snapshot
-- for the look-up before this statement takes the lock. If another request commits its record and frees the lock in
-- between, the look-up misses the record. In that case the primary key refuses the record that this request inserts.
SELECT pg_try_advisory_xact_lock(hashtextextended(:client || chr(31) || :key, 0)) AS is_held,
    record.fingerprint, record.status, record.body
FROM (VALUES (1)) AS always LEFT JOIN idempotency_record AS record ON record.client = :client AND record.key = :key;

-- name: store
-- Store the record of a key: the fingerprint of its request, and the answer.
INSERT INTO idempotency_record (client, key, fingerprint, status, body)
VALUES (:client, :key, :fingerprint, :status, :body);

-- name: withdraw
-- Empty the answers of :client that contain the text :about. The keys of these answers stay in use.
UPDATE idempotency_record SET body = ''
WHERE client = :client AND position(convert_to(CAST(:about AS text), 'UTF8') IN body) > 0;

-- name: prune
-- Delete at most :batch answers older than :retention seconds. Returns a row for each deleted answer.
DELETE FROM idempotency_record
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency_record
    WHERE created_at < now() - make_interval(secs => CAST(:retention AS double precision)) LIMIT :batch
))
RETURNING 1;
