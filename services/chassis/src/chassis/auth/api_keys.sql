-- The statements about API keys. Only `valid` and `listed` are for the role of run time, which may not write the table.

-- name: valid
-- Every key that may be used now, or will not have been revoked or expired before the next look.
SELECT prefix, hash, pepper, principal, scopes, expires_at
FROM api_key
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: add
-- A new key; none when its prefix is taken, by itself or by another one.
INSERT INTO api_key (prefix, hash, pepper, principal, scopes, expires_at)
VALUES (:prefix, :hash, :pepper, :principal, :scopes, now() + make_interval(days => CAST(:days AS integer)))
ON CONFLICT DO NOTHING RETURNING prefix;

-- name: count_valid
SELECT count(*) FROM api_key WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: find
SELECT prefix, hash, pepper, principal, scopes, expires_at, revoked_at FROM api_key WHERE prefix = :prefix;

-- name: bring_up_to_date
-- The same key under the newest pepper, with these scopes.
UPDATE api_key SET hash = :hash, pepper = :pepper, scopes = :scopes WHERE prefix = :prefix;

-- name: listed
-- All keys, the oldest first, without what they are compared with.
SELECT prefix, pepper, principal, scopes, created_at, expires_at, revoked_at FROM api_key ORDER BY created_at, prefix;

-- name: revoke
-- When it was revoked, now or before; none when there is no such key.
UPDATE api_key SET revoked_at = COALESCE(revoked_at, now()) WHERE prefix = :prefix RETURNING principal, revoked_at;
