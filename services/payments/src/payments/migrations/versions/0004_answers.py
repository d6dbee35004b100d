"""Columns for the time at which a charge attempt ended, and for the provider's answer."""

from alembic import op

revision = "payments_0004"
down_revision = "payments_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The columns have no default, so PostgreSQL does not rewrite the table. The columns may be null, so older code,
    # which does not write them, still works.
    op.execute("ALTER TABLE charge_attempt ADD COLUMN ended_at timestamptz")
    op.execute("ALTER TABLE charge_attempt ADD COLUMN answer text")


def downgrade() -> None:
    op.execute("ALTER TABLE charge_attempt DROP COLUMN answer")
    op.execute("ALTER TABLE charge_attempt DROP COLUMN ended_at")
