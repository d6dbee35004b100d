"""A table for refunds, a column that marks a payment as void, and indexes with which sweeps (regular jobs) find the
payments and refunds whose outcome is not known yet.
"""

from alembic import op

revision = "payments_0002"
down_revision = "payments_0001"
branch_labels = None
depends_on = None

_PAYMENT = """
ALTER TABLE payment
    -- True: the payment's net amount must become zero.
    ADD COLUMN void boolean NOT NULL DEFAULT false,
    -- The method is null if the payment was cancelled before it was requested.
    ALTER COLUMN payment_method DROP NOT NULL
"""
_REFUND = """
CREATE TABLE refund (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    payment_id uuid NOT NULL REFERENCES payment (id),
    n bigint NOT NULL CHECK (n > 0),
    amount bigint NOT NULL CHECK (amount > 0),
    status text NOT NULL DEFAULT 'requested' CHECK (status IN ('requested', 'submitted', 'succeeded', 'failed')),
    provider_refund_id text,
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (payment_id, n)
)
"""
_INDEXES = (
    # For each payment, the index allows at most one refund that is under way or has succeeded, even if a refund is
    # requested repeatedly.
    "CREATE UNIQUE INDEX refund_one ON refund (payment_id) WHERE status <> 'failed'",
    "CREATE INDEX refund_open ON refund (updated_at) WHERE status IN ('requested', 'submitted')",
    "DROP INDEX payment_open",
    "CREATE INDEX payment_open ON payment (updated_at) WHERE status IN ('created', 'submitting', 'submitted')",
)


def upgrade() -> None:
    for statement in (_PAYMENT, _REFUND, *_INDEXES):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE refund")
    op.execute("DELETE FROM payment WHERE payment_method IS NULL")
    op.execute("ALTER TABLE payment DROP COLUMN void, ALTER COLUMN payment_method SET NOT NULL")
    op.execute("DROP INDEX payment_open")
    op.execute(
        "CREATE INDEX payment_open ON payment (created_at) WHERE status IN ('created', 'submitting', 'submitted')"
    )
