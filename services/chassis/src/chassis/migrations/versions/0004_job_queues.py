"""Adds an index of jobs by age, for claims that ignore priority, and the table of schedules."""

from alembic import op

revision = "chassis_0004"
down_revision = "chassis_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX job_due ON job (queue, run_at, id) WHERE status = 'ready'")
    op.execute("CREATE TABLE schedule (name text PRIMARY KEY, next_at timestamptz NOT NULL)")


def downgrade() -> None:
    op.execute("DROP TABLE schedule")
    op.execute("DROP INDEX job_due")
