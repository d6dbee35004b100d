"""A column that marks endpoints whose latest attempt failed or was slow. The jobs of deliveries move to a separate
queue.
"""

from alembic import op

revision = "notifications_0003"
down_revision = "notifications_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE webhook_endpoint ADD COLUMN is_suspect boolean NOT NULL DEFAULT false")
    op.execute("UPDATE job SET queue = 'webhooks' WHERE name = 'deliver_webhook'")


def downgrade() -> None:
    op.execute("UPDATE job SET queue = 'default' WHERE name = 'deliver_webhook'")
    op.execute("ALTER TABLE webhook_endpoint DROP COLUMN is_suspect")
