"""An index on the columns `client_id` and `id` of orders. Both columns ascend, so that one row comparison,
`(client_id, id) < (…)`, finds a page of a client's orders.
"""

from alembic import op

revision = "orders_0003"
down_revision = "orders_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX orders_client_id ON orders (client_id, id)")
    op.execute("DROP INDEX orders_client")


def downgrade() -> None:
    op.execute("CREATE INDEX orders_client ON orders (client_id, id DESC)")
    op.execute("DROP INDEX orders_client_id")
