"""While the open payments would take too long, a new payment gets a 503. A known payment gets its status, and a refund
is accepted.
"""

from collections.abc import Callable
from uuid import uuid4

import httpx
from backends import FreshDatabase
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.pooling import Database
from harness import AUTH, UNLIMITED, dependency, execute, running
from payments.api import create_app
from payments.settings import PaymentsSettings
from redis.asyncio import Redis
from waiting import eventually

FULL = 150  # half of the promise of 60 s, at the minimum rate of 5 payments/s


async def test_a_new_payment_is_refused_and_a_known_payment_and_a_refund_are_not(
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
    )
    database = open_database(settings.database)
    asked: dict[str, object] = {
        "payment_id": str(uuid4()),
        "order_id": str(uuid4()),
        "amount": 12898,
        "currency": "EUR",
        "payment_method": "pm_card_ok",
    }
    async with running(create_app(Live(settings))) as client_of, client_of() as client:

        async def ask(payment: dict[str, object]) -> httpx.Response:
            return await client.post("/v1/payments", json=payment)

        assert (await ask(asked)).status_code == 202
        await execute(
            database,
            "INSERT INTO payment (id, order_id, amount, currency, payment_method) "
            "SELECT uuidv7(), uuidv7(), 1, 'EUR', 'pm_card_ok' FROM generate_series(1, :payments)",
            payments=3 * FULL,
        )

        async def refused() -> httpx.Response | None:
            new = asked | {"payment_id": str(uuid4()), "order_id": str(uuid4())}
            answer = await ask(new)
            return answer if answer.status_code == 503 else None

        refusal = await eventually(refused)
        assert refusal.json()["error"]["code"] == "OVERLOADED"
        assert 5 <= int(refusal.headers["Retry-After"]) <= 60
        known = await ask(asked)
        assert (known.status_code, known.json()["status"]) == (200, "created")
        other = {"order_id": str(uuid4()), "amount": 1, "currency": "EUR"}
        assert (await client.post(f"/v1/payments/{uuid4()}/refund", json=other)).status_code == 202

        await execute(database, "UPDATE payment SET status = 'captured', updated_at = now() WHERE status = 'created'")

        async def is_accepted() -> bool:
            return await refused() is None

        await eventually(is_accepted)
