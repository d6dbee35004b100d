"""Deliveries per second of notifications' worker: so many wait at once, at endpoints that answer at once."""

import asyncio
import json
import time

import asyncpg
from chassis.webhooks import new_secret
from holdfast_local.ports import LOOPBACK
from stage import BenchError, Servers, Service

ENDPOINTS = 50
PATIENCE_SECONDS = 60.0

_ENDPOINTS = """
INSERT INTO webhook_endpoint (client_id, url, events, secret)
SELECT 'client-' || n, $1, '{order.placed}', $2 FROM generate_series(1, $3) AS n
"""
# As `write_deliveries` leaves them: a delivery and a job each; one trace in ten is recorded.
_DELIVERIES = """
WITH written AS (
    INSERT INTO webhook_delivery (endpoint_id, client_id, event_id, event_type, order_id, body, traceparent)
    SELECT id, client_id, uuidv7(), 'order.placed', uuidv7(), $1,
           '00-' || md5(n::text) || '-00f067aa0ba902b7-0' || (n % 10 = 0)::int
    FROM webhook_endpoint, generate_series(1, $2) AS n RETURNING endpoint_id, traceparent
)
INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, traceparent)
SELECT 'deliver_webhook', 'webhooks', 0, json_build_object('endpoint_id', endpoint_id), 1, 30, traceparent FROM written
"""
_SETTLED = "SELECT count(*) FILTER (WHERE status = 'delivered') AS delivered, count(*) AS all FROM webhook_delivery"
_BODY = json.dumps(
    {
        "id": "019b5c1e-7c1a-7d6e-8f00-000000000001",
        "type": "order.placed",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {"order_id": "019b5c1e-7c1a-7d6e-8f00-000000000002", "version": 1, "amount": 12898, "currency": "EUR"},
    }
)


async def install(servers: Servers, customer_port: int) -> Service:
    """notifications, with fifty endpoints at the customer's server."""
    service = await servers.install(
        "notifications",
        webhooks__egress__allow_insecure="true",
        webhooks__egress__allowed_ports=f"[443, {customer_port}]",
        webhooks__egress__allowed_networks=f'["{LOOPBACK}/32"]',
    )
    connection = await asyncpg.connect(service.dsn)
    await connection.execute(_ENDPOINTS, f"http://{LOOPBACK}:{customer_port}/hooks", new_secret(), ENDPOINTS)
    await connection.close()
    return service


async def measure(service: Service, *, each: int) -> float:
    """Deliveries per second, from when `each` are written for every endpoint until all are delivered."""
    connection = await asyncpg.connect(service.dsn)
    try:
        await connection.execute("DELETE FROM webhook_delivery")
        started = time.perf_counter()
        async with connection.transaction():
            await connection.execute(_DELIVERIES, _BODY, each)
        await connection.execute("NOTIFY jobs_webhooks")
        while True:
            found = await connection.fetchrow(_SETTLED)
            seconds = time.perf_counter() - started
            if found["delivered"] == found["all"] == ENDPOINTS * each:
                return ENDPOINTS * each / seconds
            if seconds > PATIENCE_SECONDS:
                raise BenchError(f"{found['delivered']} of {found['all']} delivered in {PATIENCE_SECONDS:.0f} s")
            await asyncio.sleep(0.02)
    finally:
        await connection.close()
