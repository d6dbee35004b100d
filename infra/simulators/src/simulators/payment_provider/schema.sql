-- Money that moved, or will, or was refused. A refund names the charge that it takes back from.
-- settles_at (Unix seconds) is set while it is pending. traceparent is the POST's, for the webhooks about it.
CREATE TABLE IF NOT EXISTS transfer (
    id TEXT PRIMARY KEY,
    object TEXT NOT NULL CHECK (object IN ('charge', 'refund')),
    reference TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    status TEXT NOT NULL,
    object_version INTEGER NOT NULL,
    failure_code TEXT,
    outcome TEXT NOT NULL,
    charge_id TEXT REFERENCES transfer (id),
    charge_reference TEXT,
    created_at TEXT NOT NULL,
    settles_at REAL,
    traceparent TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS transfer_by_reference ON transfer (object, reference);
CREATE INDEX IF NOT EXISTS refunds_of_charge ON transfer (charge_id) WHERE charge_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS refunds_of_reference ON transfer (charge_reference) WHERE charge_reference IS NOT NULL;
CREATE INDEX IF NOT EXISTS transfer_to_settle ON transfer (settles_at) WHERE settles_at IS NOT NULL;

-- One row per Idempotency-Key, for ever: how many POSTs bore it, and the answer once there is one.
CREATE TABLE IF NOT EXISTS idempotency (
    key TEXT PRIMARY KEY,
    requests INTEGER NOT NULL,
    fingerprint TEXT,
    status INTEGER,
    body TEXT
) STRICT;

-- next_attempt_at (Unix seconds) is NULL when acknowledged, or when a fault dropped the event.
CREATE TABLE IF NOT EXISTS event (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    reference TEXT NOT NULL,
    body TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    next_attempt_at REAL,
    traceparent TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS event_by_reference ON event (reference);
CREATE INDEX IF NOT EXISTS event_to_send ON event (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
