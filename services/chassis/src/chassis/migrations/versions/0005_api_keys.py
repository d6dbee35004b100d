"""A table of clients' API keys with their scopes. The run-time role may read the keys and cannot change them."""

from alembic import op

revision = "chassis_0005"
down_revision = "chassis_0004"
branch_labels = None
depends_on = None

_API_KEY = """
CREATE TABLE api_key (
    prefix text PRIMARY KEY CHECK (prefix ~ '^[a-z0-9]{12}$'),  -- public: names the key in lists and logs
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),        -- HMAC-SHA-256 of the whole key
    pepper text NOT NULL,                                       -- the fingerprint of the pepper in the hash
    principal text NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
)
"""
# The schema's default privileges let the run-time role write every table. This table is an exception: an attacker who
# takes over a public process must not be able to create a key.
_READ_ONLY = """
DO $$ DECLARE role_name text; BEGIN
    FOR role_name IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = current_schema() AND table_name = 'api_key' AND grantee <> current_user
    LOOP
        EXECUTE format('REVOKE ALL ON api_key FROM %I', role_name);
        EXECUTE format('GRANT SELECT ON api_key TO %I', role_name);
    END LOOP;
END $$
"""


def upgrade() -> None:
    op.execute(_API_KEY)
    op.execute(_READ_ONLY)


def downgrade() -> None:
    op.execute("DROP TABLE api_key")
