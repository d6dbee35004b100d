"""A table for providers' events. Each event is stored once, with its raw body."""

from alembic import op

revision = "webhook_ingest_0001"
down_revision = None
branch_labels = ("webhook_ingest",)
depends_on = "chassis_0001"

_PROVIDER_EVENT = """
CREATE TABLE provider_event (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    provider text NOT NULL,
    event_id text NOT NULL,
    body bytea NOT NULL,
    status text NOT NULL DEFAULT 'stored' CHECK (status IN ('stored', 'published', 'ignored', 'dead')),
    reason text,
    received_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (provider, event_id)
)
"""
_STORED = "CREATE INDEX provider_event_stored ON provider_event (received_at) WHERE status = 'stored'"


def upgrade() -> None:
    op.execute(_PROVIDER_EVENT)
    op.execute(_STORED)


def downgrade() -> None:
    op.execute("DROP TABLE provider_event")
