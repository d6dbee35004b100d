"""A table of mails, with one mail for each event of an order. A second table records, for each order, the version of
the event that was mailed last.
"""

from alembic import op

revision = "notifications_0001"
down_revision = None
branch_labels = ("notifications",)
depends_on = "chassis_0001"

_ORDER_PROGRESS = """
CREATE TABLE order_progress (
    order_id uuid PRIMARY KEY,
    last_version bigint NOT NULL CHECK (last_version >= 0)
)
"""
_MAIL = """
CREATE TABLE mail (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    event_id uuid NOT NULL UNIQUE,
    order_id uuid NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    client_id text NOT NULL,
    event_type text NOT NULL,
    recipient text NOT NULL,
    subject text NOT NULL,
    text text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'sent', 'dead')),
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz,
    UNIQUE (order_id, version)
)
"""
_INDEXES = (
    "CREATE INDEX mail_pending ON mail (created_at) WHERE status = 'pending'",
    "CREATE INDEX mail_client ON mail (client_id, order_id)",
)


def upgrade() -> None:
    for statement in (_ORDER_PROGRESS, _MAIL, *_INDEXES):
        op.execute(statement)


def downgrade() -> None:
    for table in ("mail", "order_progress"):
        op.execute(f"DROP TABLE {table}")
