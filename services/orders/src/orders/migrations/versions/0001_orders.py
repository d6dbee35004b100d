"""Tables for products, orders and the lines of orders."""

from alembic import op

revision = "orders_0001"
down_revision = None
branch_labels = ("orders",)
depends_on = "chassis_0001"

_PRODUCT = """
CREATE TABLE product (
    id text PRIMARY KEY,
    name text NOT NULL,
    price bigint NOT NULL CHECK (price > 0),    -- minor units
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$')
)
"""
_ORDERS = """
CREATE TABLE orders (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    client_id text NOT NULL,
    idempotency_key text NOT NULL,
    customer_email text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'confirmed', 'cancelling', 'cancelled')),
    amount bigint NOT NULL CHECK (amount > 0),  -- minor units
    currency text NOT NULL,
    payment_method text NOT NULL,
    payment_id uuid NOT NULL UNIQUE DEFAULT uuidv7(),
    payment_version bigint NOT NULL DEFAULT 0,
    paid_amount bigint NOT NULL DEFAULT 0 CHECK (paid_amount IN (0, amount)),
    reason text,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
)
"""
_ORDER_LINE = """
CREATE TABLE order_line (
    order_id uuid NOT NULL REFERENCES orders (id),
    position bigint NOT NULL,
    product_id text NOT NULL REFERENCES product (id),
    quantity bigint NOT NULL CHECK (quantity > 0),
    unit_price bigint NOT NULL CHECK (unit_price > 0),
    PRIMARY KEY (order_id, position)
)
"""
_INDEXES = (
    # This index serves a client's list of orders, newest first: the ids are UUIDs of version 7, which grow with time.
    "CREATE INDEX orders_client ON orders (client_id, id DESC)",
    "CREATE INDEX orders_key ON orders (client_id, idempotency_key)",
    "CREATE INDEX orders_open ON orders (created_at) WHERE status IN ('pending', 'cancelling')",
)
_PRODUCTS = """
INSERT INTO product (id, name, price, currency) VALUES
    ('anchor', 'Anchor, 12 kg', 8900, 'EUR'),
    ('cleat', 'Cleat, stainless', 1450, 'EUR'),
    ('compass', 'Compass, bulkhead mount', 12900, 'EUR'),
    ('fender', 'Fender, 60 cm', 2490, 'EUR'),
    ('rope', 'Mooring rope, 10 m', 1999, 'EUR')
"""


def upgrade() -> None:
    for statement in (_PRODUCT, _ORDERS, _ORDER_LINE, *_INDEXES, _PRODUCTS):
        op.execute(statement)


def downgrade() -> None:
    for table in ("order_line", "orders", "product"):
        op.execute(f"DROP TABLE {table}")
