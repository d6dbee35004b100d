"""A column for the time at which an order's cancellation began, which no event reports."""

from alembic import op

revision = "orders_0002"
down_revision = "orders_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default PostgreSQL does not rewrite the table, and code that does not know the column goes on working.
    op.execute("ALTER TABLE orders ADD COLUMN cancelling_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN cancelling_at")
