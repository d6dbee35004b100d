"""While too much waits at payments, no payment is accepted; what was accepted can still be brought back to zero."""

from collections.abc import Callable
from uuid import uuid4

import httpx
from backends import FreshDatabase
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, JobSettings, RedisSettings
from chassis.pooling import Database
from harness import AUTH, UNLIMITED, count, dependency, execute, running
from payments.api import create_app
from payments.settings import PaymentsSettings
from redis.asyncio import Redis
from waiting import eventually

LIMIT = 10


async def test_a_payment_is_refused_before_it_is_written_and_a_refund_is_not(
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
    patient_redis: RedisSettings,
    redis: Redis,
) -> None:
    settings = PaymentsSettings(
        database=await empty_database("payments"),
        redis=patient_redis,
        auth=AUTH,
        rate_limit=UNLIMITED,
        provider=dependency("http://nobody-asks"),
        jobs=JobSettings(backlog_limit=LIMIT),
    )
    database = open_database(settings.database)
    await execute(
        database,
        "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, run_at) "
        "SELECT 'charge_payment', 'default', 0, '{}', 1, 3, now() + interval '1 hour' FROM generate_series(1, :limit)",
        limit=LIMIT,
    )
    asked = {
        "payment_id": str(uuid4()),
        "order_id": str(uuid4()),
        "amount": 12898,
        "currency": "EUR",
        "payment_method": "pm_card_ok",
    }
    async with running(create_app(Live(settings))) as client_of, client_of() as client:

        async def ask() -> httpx.Response:
            return await client.post("/v1/payments", json=asked)

        refused = await ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "OVERLOADED")
        assert 5 <= int(refused.headers["Retry-After"]) <= 60
        assert await count(database, "payment") == 0
        other = {"order_id": str(uuid4()), "amount": 1, "currency": "EUR"}
        assert (await client.post(f"/v1/payments/{uuid4()}/refund", json=other)).status_code == 202

        await execute(database, "DELETE FROM job")

        async def is_accepted() -> bool:
            return (await ask()).status_code == 202

        await eventually(is_accepted)
