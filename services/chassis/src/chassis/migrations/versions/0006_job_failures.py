"""A separate table stores failed attempts at jobs, since a completed job's row is deleted."""

from alembic import op

revision = "chassis_0006"
down_revision = "chassis_0005"
branch_labels = None
depends_on = None

# The statement that ends a failed attempt also inserts a row into this table, so the table costs nothing for a job that
# does not fail. The primary key is the only index, since only operators read the table. The table has no foreign key to
# the job, because a foreign key could make the statement fail.
_JOB_FAILURE = """
CREATE TABLE job_failure (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL,
    name text NOT NULL,
    payload jsonb NOT NULL,     -- the ids that the job worked on
    attempt integer NOT NULL,
    error text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    retry_at timestamptz        -- NULL if the job became a dead letter
)
"""


def upgrade() -> None:
    op.execute(_JOB_FAILURE)


def downgrade() -> None:
    op.execute("DROP TABLE job_failure")
