"""The chassis' tables: jobs, outbox, stream positions, inbox, dead events and idempotency records."""

from alembic import op

revision = "chassis_0001"
down_revision = None
branch_labels = ("chassis",)
depends_on = None

_JOB = """
CREATE TABLE job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    queue text NOT NULL,
    priority smallint NOT NULL,
    payload jsonb NOT NULL,
    payload_version smallint NOT NULL,
    status text NOT NULL DEFAULT 'ready' CHECK (status IN ('ready', 'running', 'dead')),
    attempt integer NOT NULL DEFAULT 0,         -- each claim increases it; (id, attempt) is the fencing token
    max_attempts integer NOT NULL CHECK (max_attempts > 0),
    run_at timestamptz NOT NULL DEFAULT now(),
    deadline timestamptz,                       -- no attempt starts after this time
    lease_until timestamptz,
    worker text,
    is_suspect boolean NOT NULL DEFAULT false,  -- the job's lease expired: the job may have killed its process
    unique_key text,                            -- the deduplication key, which a claim clears
    traceparent text,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now()
)
-- Each row is updated a few times and soon deleted. So pages have room for updates, and vacuum runs before the table
-- bloats.
WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)
"""
_OUTBOX = """
CREATE TABLE outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL DEFAULT uuidv7(),
    stream text NOT NULL,
    type text NOT NULL,
    schema smallint NOT NULL,
    aggregate_id text NOT NULL,
    aggregate_version integer NOT NULL CHECK (aggregate_version > 0),
    payload jsonb NOT NULL,
    traceparent text,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    UNIQUE (stream, aggregate_id, aggregate_version)
)
"""
_STREAM_POSITION = """
CREATE TABLE stream_position (
    stream text PRIMARY KEY,
    epoch uuid NOT NULL,
    last_id text NOT NULL
)
"""
_INBOX = """
CREATE TABLE inbox (
    consumer text NOT NULL,
    event_id uuid NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    status text NOT NULL DEFAULT 'handled' CHECK (status IN ('handled', 'held')),
    aggregate_id text,                          -- set while the event is held, like the next two columns
    aggregate_version integer,
    event jsonb,
    PRIMARY KEY (consumer, event_id),
    CHECK (status = 'handled' OR (aggregate_id IS NOT NULL AND aggregate_version IS NOT NULL AND event IS NOT NULL))
)
"""
_DEAD_EVENT = """
CREATE TABLE dead_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer text NOT NULL,
    stream text NOT NULL,
    entry_id text NOT NULL,
    event text NOT NULL,                        -- the text of the stream entry, which may not be JSON
    reason text NOT NULL,
    died_at timestamptz NOT NULL DEFAULT now()
)
"""
_IDEMPOTENCY_RECORD = """
CREATE TABLE idempotency_record (
    client text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client, key)
)
"""
_INDEXES = (
    "CREATE INDEX job_claim ON job (queue, priority DESC, run_at, id) WHERE status = 'ready'",
    "CREATE INDEX job_reap ON job (lease_until) WHERE status = 'running'",
    "CREATE INDEX job_dead ON job (queue, name, id) WHERE status = 'dead'",
    "CREATE INDEX job_suspect ON job (queue, run_at) WHERE status = 'ready' AND is_suspect",
    "CREATE UNIQUE INDEX job_unique ON job (name, unique_key) WHERE unique_key IS NOT NULL",
    "CREATE INDEX outbox_unpublished ON outbox (stream, seq) WHERE published_at IS NULL",
    "CREATE INDEX inbox_held ON inbox (consumer, aggregate_id, aggregate_version) WHERE status = 'held'",
    "CREATE INDEX inbox_received ON inbox (received_at)",
    "CREATE INDEX idempotency_record_created ON idempotency_record (created_at)",
)


def upgrade() -> None:
    for statement in (_JOB, _OUTBOX, _STREAM_POSITION, _INBOX, _DEAD_EVENT, _IDEMPOTENCY_RECORD, *_INDEXES):
        op.execute(statement)


def downgrade() -> None:
    for table in ("idempotency_record", "dead_event", "inbox", "stream_position", "outbox", "job"):
        op.execute(f"DROP TABLE {table}")
