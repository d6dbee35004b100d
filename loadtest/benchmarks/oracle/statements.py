# ruff: noqa: S608  our own names and numbers
"""What one synthetic order is, in each system: SQL for the orders `first` to `last`, and for the simulators' files.

Ids tell what they are of by their first digit: 1 the order, 2 its payment, 3 and 4 its events, 5 its payment's event,
6 the provider's event as it was stored, 7 the event that it became, 8 and 9 the deliveries.
"""

_SERIES = "FROM generate_series({first}, {last}) AS n"
_AT = "(timestamptz '{began}' + n * interval '1 millisecond')"
_NOW = f"to_char({_AT} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
_AMOUNT = 2000


def _id(kind: int) -> str:
    return f"('{kind}' || lpad(to_hex(n), 7, '0') || '-0000-7000-8000-000000000000')::uuid"


def _event(kind: int, service: str, name: str, aggregate: int, version: int, payload: str) -> str:
    return f"""
        INSERT INTO outbox (event_id, stream, type, schema, aggregate_id, aggregate_version, payload, occurred_at,
            published_at)
        SELECT {_id(kind)}, 'events:{service}', '{name}', 1, {_id(aggregate)}::text, {version}, {payload}, {_AT}, {_AT}
        {_SERIES}
    """


def _order_event(kind: int, name: str, status: str, version: int) -> str:
    payload = f"""jsonb_build_object('order_id', {_id(1)}, 'client_id', 'synthetic', 'customer_email',
        n || '@example.org', 'status', '{status}', 'amount', {_AMOUNT}, 'currency', 'EUR', 'reason', NULL)"""
    return _event(kind, "orders", f"order.{name}", 1, version, payload)


def _inbox(consumer: str, kind: int) -> str:
    return f"INSERT INTO inbox (consumer, event_id) SELECT '{consumer}', {_id(kind)} {_SERIES}"


def _mail(kind: int, name: str, version: int, subject: str) -> str:
    return f"""
        INSERT INTO mail (event_id, order_id, version, client_id, event_type, recipient, subject, text, status,
            created_at, settled_at)
        SELECT {_id(kind)}, {_id(1)}, {version}, 'synthetic', 'order.{name}', n || '@example.org', '{subject}',
            'Over 20.00 EUR.' || E'\\n\\nOrder ' || {_id(1)}, 'sent', {_AT}, {_AT} {_SERIES}
    """


def _delivery(kind: int, event: int, name: str, version: int) -> str:
    body = f"""'{{{{"id":"' || {_id(event)} || '","type":"order.{name}","timestamp":"' || {_NOW} ||
        '","data":{{{{"order_id":"' || {_id(1)} || '","version":{version},"amount":{_AMOUNT},"currency":"EUR",' ||
        '"reason":null}}}}}}}}'"""
    return f"""
        INSERT INTO webhook_delivery (id, endpoint_id, client_id, event_id, event_type, order_id, body, status,
            attempts, created_at, settled_at)
        SELECT {_id(kind)}, (SELECT id FROM webhook_endpoint WHERE client_id = 'synthetic'), 'synthetic',
            {_id(event)}, 'order.{name}', {_id(1)}, {body}, 'delivered', 1, {_AT}, {_AT} {_SERIES}
    """


STATEMENTS: dict[str, list[str]] = {
    "orders": [
        f"""
        INSERT INTO orders (id, client_id, idempotency_key, customer_email, status, amount, currency, payment_method,
            payment_id, payment_version, paid_amount, version, created_at, updated_at)
        SELECT {_id(1)}, 'synthetic', n::text, n || '@example.org', 'confirmed', {_AMOUNT}, 'EUR', 'pm_card_ok',
            {_id(2)}, 1, {_AMOUNT}, 2, {_AT}, {_AT} {_SERIES}
        """,
        f"INSERT INTO order_line SELECT {_id(1)}, 1, 'rope', 2, 1000 {_SERIES}",
        f"""
        INSERT INTO idempotency_record (client, key, fingerprint, status, body)
        SELECT 'synthetic', n::text, '', 201, convert_to(json_build_object('id', {_id(1)}, 'status', 'pending',
            'amount', {_AMOUNT}, 'currency', 'EUR',
            'lines', '[{{{{"product_id": "rope", "quantity": 2, "unit_price": 1000}}}}]'::json)::text, 'UTF8')
        {_SERIES}
        """,
        _order_event(3, "placed", "pending", 1),
        _order_event(4, "confirmed", "confirmed", 2),
        _inbox("orders", 5),
    ],
    "payments": [
        f"""
        INSERT INTO payment (id, order_id, amount, currency, payment_method, status, provider_charge_id, version,
            created_at, updated_at)
        SELECT {_id(2)}, {_id(1)}, {_AMOUNT}, 'EUR', 'pm_card_ok', 'captured', 'ch_' || lpad(to_hex(n), 7, '0'), 1,
            {_AT}, {_AT} {_SERIES}
        """,
        f"INSERT INTO charge_attempt (payment_id, n) SELECT {_id(2)}, 1 {_SERIES}",
        _event(
            5,
            "payments",
            "payment.captured",
            2,
            1,
            f"""jsonb_build_object('payment_id', {_id(2)}, 'order_id', {_id(1)}, 'status', 'captured',
                'amount', {_AMOUNT}, 'currency', 'EUR')""",
        ),
        _inbox("payments", 7),
    ],
    "webhook-ingest": [
        f"""
        INSERT INTO provider_event (id, provider, event_id, body, status, received_at)
        SELECT {_id(6)}, 'payment-provider', 'evt_' || lpad(to_hex(n), 7, '0'), '', 'published', {_AT} {_SERIES}
        """,
        _event(
            7,
            "webhook-ingest",
            "provider.charge.succeeded",
            6,
            1,
            f"""jsonb_build_object('reference', {_id(2)}, 'provider_id', 'ch_' || lpad(to_hex(n), 7, '0'), 'amount',
                {_AMOUNT}, 'raw_event_id', 'evt_' || lpad(to_hex(n), 7, '0'))""",
        ),
    ],
    "notifications": [
        """
        INSERT INTO webhook_endpoint (client_id, url, events, secret, updated_at)
        SELECT 'synthetic', '{customer}', '{{order.placed,order.confirmed}}', 'whsec_',
            timestamptz '{began}' - interval '1 hour'
        WHERE NOT EXISTS (SELECT FROM webhook_endpoint WHERE client_id = 'synthetic')
        """,
        f"INSERT INTO order_progress SELECT {_id(1)}, 2 {_SERIES}",
        _mail(3, "placed", 1, "We have your order"),
        _mail(4, "confirmed", 2, "Your order is confirmed"),
        _delivery(8, 3, "placed", 1),
        _delivery(9, 4, "confirmed", 2),
        _inbox("notifications", 3),
        _inbox("notifications", 4),
    ],
}

_REST = "-0000-7000-8000-000000000000"
_TRANSFER = f"""
    INSERT INTO transfer (id, object, reference, idempotency_key, amount, currency, status, object_version, outcome,
        created_at)
    VALUES ('ch_' || :n, 'charge', '2' || :n || '{_REST}', 'charge:' || :n, {_AMOUNT}, 'EUR', 'captured', 2,
        'captured', :at)
"""
PROVIDER = [
    "INSERT INTO idempotency (key, requests, fingerprint, status, body) VALUES ('charge:' || :n, 1, '', 202, '{}')",
    _TRANSFER,
    f"""
    INSERT INTO event (id, type, reference, body, attempts, acknowledged)
    VALUES ('evt_' || :n, 'charge.succeeded', '2' || :n || '{_REST}', '{{}}', 1, 1)
    """,
]
MAILBOX = [
    f"""
    INSERT INTO message (message_id, sender, recipients, subject, text, headers, received_at)
    VALUES ('<{kind}' || :n || '{_REST}@holdfast.example>', 'shop@holdfast.example',
        '["' || :email || '"]', '{subject}',
        'Over 20.00 EUR.' || char(10) || char(10) || 'Order 1' || :n || '{_REST}', '{{}}', :at)
    """
    for kind, subject in ((3, "We have your order"), (4, "Your order is confirmed"))
]
CUSTOMER_ENDPOINT = [
    f"""
    INSERT INTO attempt (received_at, name, webhook_id, webhook_timestamp, status, headers, body)
    VALUES (:at, 'synthetic', '{kind}' || :n || '{_REST}', '0', 204, '{{}}',
        '{{"id":"{event}' || :n || '{_REST}","type":"order.{name}","timestamp":"' || :stamp || '","data":{{' ||
        '"order_id":"1' || :n || '{_REST}","version":{version},"amount":{_AMOUNT},"currency":"EUR","reason":null}}}}')
    """
    for kind, event, name, version in ((8, 3, "placed", 1), (9, 4, "confirmed", 2))
]
"""With :n as seven hexadecimal digits, :email, :at and :stamp."""
