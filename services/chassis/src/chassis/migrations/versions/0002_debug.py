"""Jobs and events store the header that turned DEBUG on, beside their `traceparent`."""

from alembic import op

revision = "chassis_0002"
down_revision = "chassis_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The column may be NULL. So PostgreSQL does not rewrite the table, and code that does not know the column still
    # works.
    op.execute("ALTER TABLE job ADD COLUMN debug text")
    op.execute("ALTER TABLE outbox ADD COLUMN debug text")


def downgrade() -> None:
    op.execute("ALTER TABLE job DROP COLUMN debug")
    op.execute("ALTER TABLE outbox DROP COLUMN debug")
