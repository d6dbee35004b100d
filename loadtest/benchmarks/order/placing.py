"""The load: orders through the public API, until the mailbox has each of their mails."""

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from holdfast_local.platform import Platform

ORDER = {
    "lines": [{"product_id": "rope", "quantity": 2}, {"product_id": "cleat", "quantity": 1}],
    "customer_email": "ada@example.com",
    "payment_method": "pm_card_ok",
}
MAILS = 2
"""Per order: one when it is placed, one when it is confirmed."""
AT_ONCE = 16  # requests under way together in a closed loop
PATIENCE_SECONDS = 300.0
_POLL_SECONDS = 0.5  # of one small count; more often would be part of what is measured


class BenchError(Exception):
    """The measurement cannot be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Placed:
    """`seconds` from the first POST to the last mail; `behind` is the part of them after the last POST."""

    seconds: float
    behind: float


async def place(platform: Platform, orders: int, *, rate: float | None = None) -> Placed:
    """Place so many orders and return when the last of their mails has arrived.

    Without `rate` the loop is closed, `AT_ONCE` requests at a time; with it, `rate` orders a second are posted,
    whatever becomes of the earlier ones.
    """
    key = (platform.installation.secrets.of("clients") / "acme").read_text("utf-8").strip()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as client:
        wanted = await _mails(platform, client) + orders * MAILS
        started = time.monotonic()
        await (_place_at_once(platform, client, orders) if rate is None else _pace(platform, client, orders, rate))
        posted = time.monotonic()
        await _until_mailed(platform, client, wanted)
        ended = time.monotonic()
    return Placed(ended - started, ended - posted)


async def _place_at_once(platform: Platform, client: aiohttp.ClientSession, orders: int) -> None:
    numbers = iter(range(orders))

    async def place_next() -> None:
        for _ in numbers:
            await _place_one(platform, client)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(place_next())


async def _pace(platform: Platform, client: aiohttp.ClientSession, orders: int, rate: float) -> None:
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(orders):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            group.create_task(_place_one(platform, client))


async def _place_one(platform: Platform, client: aiohttp.ClientSession) -> None:
    url = platform.installation.url("orders") + "/v1/orders"
    headers = {"Idempotency-Key": f"order-{time.monotonic_ns()}"}
    async with client.post(url, json=ORDER, headers=headers) as answer:
        if answer.status != HTTPStatus.CREATED:
            raise BenchError(f"an order was answered {answer.status}: {await answer.text()}")


async def _until_mailed(platform: Platform, client: aiohttp.ClientSession, wanted: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (arrived := await _mails(platform, client)) < wanted:
        if time.monotonic() > deadline:
            raise BenchError(f"{arrived} of {wanted} mails arrived within {PATIENCE_SECONDS:.0f} s")
        await asyncio.sleep(_POLL_SECONDS)
    if arrived > wanted:
        raise BenchError(f"{arrived} mails arrived, {wanted} were due: some were sent twice")


async def _mails(platform: Platform, client: aiohttp.ClientSession) -> int:
    """How many mails the mailbox has accepted."""
    async with client.get(platform.installation.url("mailbox") + "/messages/totals") as answer:
        messages: int = (await answer.json())["messages"]
        return messages
