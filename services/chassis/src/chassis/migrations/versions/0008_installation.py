"""A table with the id of this database, which Redis also stores, and the term (a number) of the relay that leads."""

from alembic import op

revision = "chassis_0008"
down_revision = "chassis_0007"
branch_labels = None
depends_on = None

_INSTALLATION = """
CREATE TABLE installation (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),  -- allows only one row
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    relay_term bigint NOT NULL DEFAULT 0
)
"""


def upgrade() -> None:
    op.execute(_INSTALLATION)
    op.execute("INSERT INTO installation DEFAULT VALUES")


def downgrade() -> None:
    op.execute("DROP TABLE installation")
