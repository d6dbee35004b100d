"""What a wrong order may cost: as much as any other of its size, whatever it is made of."""

import time
from collections.abc import AsyncIterator

import httpx
import pytest
from chassis.app.api import Router
from chassis.app.api.application import Application
from chassis.config.settings import HttpSettings
from chassis.logging import shown_back
from orders.schemas import PlaceOrder

_LINES, _LENGTH = 4, 15_900  # of one product's name each: 64 KB, the largest body there is
_RUNS = 5
_MOST = 15
"""Times what a harmless order costs. While redaction was quadratic, these were 200 and 900."""


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    router = Router()

    @router.post("/orders", public=True)
    async def place(body: PlaceOrder) -> None:
        """Take the body."""

    app = Application(HttpSettings, routers=[router])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        yield client


async def seconds_for(client: httpx.AsyncClient, piece: str) -> float:
    """Processor time of the event loop's thread, the least of some runs, for an order whose products are called so."""
    name = (piece * _LENGTH)[:_LENGTH]
    least = float("inf")
    for _ in range(_RUNS):
        started = time.thread_time()
        answer = await client.post("/orders", json={"lines": [{"product_id": name}] * _LINES})
        least = min(least, time.thread_time() - started)
        assert answer.status_code == 422
    return least


@pytest.mark.parametrize(
    "piece", ["eyJ-", "111-", "411-", "4111 1111 1111 1111 ", "a@", "token=", "://a:", "0a" * 31 + "-"]
)
async def test_an_order_made_to_be_slow_costs_no_more_than_another(client: httpx.AsyncClient, piece: str) -> None:
    await client.post("/orders", json={})  # what is made once is made
    assert await seconds_for(client, piece) < _MOST * await seconds_for(client, "plain text ")


SECRETS = (
    "4111 1111 1111 1111",
    "bearer abcdefghijklmnop",
    f"hf_{'a' * 12}_{'b' * 43}",
    "postgresql://app:hunter2@db",
    "password=hunter2",
    "ada@shop.example",
    "0123456789abcdef" * 4,
    f"eyJ{'a' * 40}.{'b' * 40}.{'c' * 40}",
)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_that_a_cut_goes_through_is_not_shown(secret: str) -> None:
    for limit in (100, 300):
        for begin in range(limit - len(secret) - 1, limit):
            shown = shown_back(f"{'x ' * (begin // 2)}{secret} {'y ' * 5000}", limit)
            assert not any(part in shown for part in ("hunter2", "1111", "shop.ex", "abcd", "bbb", "cccc"))


def test_what_is_behind_a_cut_does_not_come_before_it_when_secrets_get_shorter() -> None:
    text = f"bearer {'a' * 900} https://user:hunter2{'2' * 2000}@shop.example"
    assert "hunter" not in shown_back(text, 300)
