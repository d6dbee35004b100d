-- Statements on API keys. The role that runs the service uses only `valid` and `listed`: this role cannot write the
-- table.

-- name: valid
-- All keys that are neither revoked nor expired.
SELECT prefix, hash, pepper, principal, scopes, expires_at
FROM api_key
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: add
-- Store a key. Returns no row when a row with the same prefix exists already.
INSERT INTO api_key (prefix, hash, pepper, principal, scopes, expires_at)
VALUES (:prefix, :hash, :pepper, :principal, :scopes, now() + make_interval(days => CAST(:days AS integer)))
ON CONFLICT DO NOTHING RETURNING prefix;

-- name: count_valid
SELECT count(*) FROM api_key WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: find
SELECT prefix, hash, pepper, principal, scopes, expires_at, revoked_at FROM api_key WHERE prefix = :prefix;

-- name: bring_up_to_date
-- Replace the hash of a key by its hash under another pepper, and replace the key's scopes.
UPDATE api_key SET hash = :hash, pepper = :pepper, scopes = :scopes WHERE prefix = :prefix;

-- name: listed
-- All keys without their hashes, the oldest first.
SELECT prefix, pepper, principal, scopes, created_at, expires_at, revoked_at FROM api_key ORDER BY created_at, prefix;

-- name: revoke
-- Revoke a key. A second revocation does not change the recorded time of the first. Returns no row when no key has this
-- prefix.
UPDATE api_key SET revoked_at = COALESCE(revoked_at, now()) WHERE prefix = :prefix RETURNING principal, revoked_at;
