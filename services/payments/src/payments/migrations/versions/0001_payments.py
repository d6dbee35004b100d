"""Tables for payments and for the attempts to charge them."""

from alembic import op

revision = "payments_0001"
down_revision = None
branch_labels = ("payments",)
depends_on = "chassis_0001"

_PAYMENT = """
CREATE TABLE payment (
    id uuid PRIMARY KEY,
    order_id uuid NOT NULL UNIQUE,
    amount bigint NOT NULL CHECK (amount > 0),  -- minor units
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    payment_method text NOT NULL,
    status text NOT NULL DEFAULT 'created' CHECK (
        status IN ('created', 'submitting', 'submitted', 'captured', 'failed', 'canceled', 'refunded')
    ),
    provider_charge_id text,
    reason text,
    version bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
)
"""
_CHARGE_ATTEMPT = """
CREATE TABLE charge_attempt (
    payment_id uuid NOT NULL REFERENCES payment (id),
    n bigint NOT NULL CHECK (n > 0),
    outcome text NOT NULL DEFAULT 'open' CHECK (outcome IN ('open', 'not_run')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (payment_id, n)
)
"""
_OPEN = "CREATE INDEX payment_open ON payment (created_at) WHERE status IN ('created', 'submitting', 'submitted')"


def upgrade() -> None:
    for statement in (_PAYMENT, _CHARGE_ATTEMPT, _OPEN):
        op.execute(statement)


def downgrade() -> None:
    for table in ("charge_attempt", "payment"):
        op.execute(f"DROP TABLE {table}")
