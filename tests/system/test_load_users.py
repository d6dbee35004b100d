"""Load: the users that only some scenarios have, and what those scenarios need. Locust runs against a fake platform."""

import base64
import hmac
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from aiohttp import web
from fake_platform import FakeOrders, locust, serving, start_locust, write_keys
from waiting import eventually

SECRET = b"k" * 24


@pytest.fixture
async def orders() -> AsyncIterator[FakeOrders]:
    async with serving() as fake:
        yield fake


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_keys(tmp_path / "keys")


SCENARIO_OPTIONS = ("--seconds", "3", "--rate", "2")


def everything(orders: FakeOrders, tmp_path: Path) -> list[str]:
    """Where the provider and webhook-ingest are, and how to sign: all of them the fake."""
    secret = tmp_path / "secret"
    secret.write_text(f"whsec_{base64.b64encode(SECRET).decode()}")
    return ["--ingest", orders.url, "--provider", orders.url, "--webhook-secret", str(secret)]


async def test_an_abuser_is_one_client_and_its_refusals_are_not_the_others(orders, keys):
    orders.refuse = lambda request: (
        web.json_response({}, status=429, headers={"Retry-After": "1"})
        if request.headers["Authorization"] == "Bearer key-of-acme"
        else None
    )
    ended = await locust(orders.url, keys, "--seconds", "3", "--rate", "0.7", "--scenario", "abuse")
    assert ended.violated == [], ended.output
    assert "answers to abusers were 429, 100.0%; expected 50% or more" in ended.output
    assert "✔ holds     0 were over a client's limit (429), 0.0%; expected 0% to 1%" in ended.output
    orders.refuse = lambda _: None
    ended = await locust(orders.url, keys, "--seconds", "3", "--rate", "0.7", "--scenario", "abuse")
    assert ended.code == 1
    assert "✘ violated  0 of" in ended.output


async def test_in_a_flash_sale_everybody_buys_the_same(orders, keys):
    await locust(orders.url, keys, *SCENARIO_OPTIONS, "--scenario", "flash_sale")
    assert len(orders.placed) > 3
    assert {line["product_id"] for body in orders.placed.values() for line in body["lines"]} == {"compass"}


async def test_a_bulk_buyers_orders_have_as_many_lines_as_may_be(orders, keys):
    await locust(orders.url, keys, "--seconds", "2", "--rate", "40", "--scenario", "steady", "--orders", "400")
    assert {len(body["lines"]) for body in orders.placed.values()} == {1, 50}


async def test_webhooks_are_signed_repeated_forged_and_stale_and_each_has_its_answer(orders, keys, tmp_path):
    told = everything(orders, tmp_path)
    orders.webhook_answer = lambda request: 200 if is_genuine(request) else 401
    ended = await locust(orders.url, keys, *SCENARIO_OPTIONS, *told, "--scenario", "webhook_storm")
    assert ended.violated == [], ended.output
    assert "webhooks were answered within" in ended.output
    ids = Counter(request.headers["webhook-id"] for request in orders.webhooks if is_genuine(request))
    assert set(ids.values()) == {1, 2}
    assert not all(is_genuine(request) for request in orders.webhooks)
    orders.webhook_answer = lambda _: 200
    ended = await locust(orders.url, keys, *SCENARIO_OPTIONS, *told, "--scenario", "webhook_storm")
    assert ended.code == 1
    assert "(forged): 200" in ended.output


async def test_the_provider_is_down_for_a_stage_and_whole_again_however_the_run_ends(orders, keys, tmp_path):
    told = everything(orders, tmp_path)
    ended = await locust(orders.url, keys, *SCENARIO_OPTIONS, *told, "--scenario", "provider_outage")
    assert ended.violated == [], ended.output
    assert orders.faults[:2] == [{"unavailable": True}, {}]
    orders.faults.clear()
    process = await start_locust(orders.url, keys, "--seconds", "20", *told, "--scenario", "provider_outage")

    async def is_down() -> bool:
        return bool(orders.faults)

    await eventually(is_down)
    process.terminate()
    output, _ = await process.communicate()
    assert orders.faults[0] == {"unavailable": True}
    assert orders.faults[-1] == {}, output.decode()


async def test_beyond_capacity_a_refused_buyer_goes_away_and_the_last_refusal_is_judged(orders, keys, tmp_path):
    numbers = count()
    refusing = True

    def refuse(request: web.Request) -> web.Response | None:
        is_order = request.method == "POST" and request.path == "/v1/orders"
        if refusing and is_order and next(numbers) % 2:
            return web.json_response({}, status=503, headers={"Retry-After": "1"})
        return None

    orders.refuse = refuse
    told = ["--provider", orders.url, "--seconds", "6", "--scenario", "overload"]
    ended = await locust(orders.url, keys, *told)
    assert "0 were given up after refusals only" in ended.output
    assert "the last 503 came" in ended.output
    assert {len(asked) for asked in orders.asked.values()} <= {1, 2}, "only the patient buyers come again"
    assert orders.faults[0] == {"latency_seconds": 0.9}
    assert orders.faults[-1] == {}
    refusing = False
    ended = await locust(orders.url, keys, *told)
    assert "✘ violated  the last 503 came" in ended.output, "a platform that refuses nothing was not overloaded"


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("webhook_storm", "webhook_storm sends webhooks: --ingest and --webhook-secret say where to"),
        ("provider_outage", "the payment provider goes wrong: --provider says where the simulated one is"),
        ("abuse", "abuse needs the keys of two clients"),
    ],
)
async def test_what_a_scenario_needs_is_asked_for_before_anything_is_sent(orders, keys, scenario, said):
    ended = await locust(orders.url, keys / "acme", "--scenario", scenario)
    assert ended.code == 2
    assert said in ended.output
    assert orders.keys == set()


async def test_neither_the_provider_nor_webhook_ingest_may_be_elsewhere(orders, keys, tmp_path):
    told = everything(orders, tmp_path)
    for position in (1, 3):
        elsewhere = [*told[:position], "http://192.0.2.1", *told[position + 1 :]]
        ended = await locust(orders.url, keys, *elsewhere, "--scenario", "webhook_storm")
        assert ended.code == 2
        assert "http://192.0.2.1 is not on this machine" in ended.output


def is_genuine(request: web.Request) -> bool:
    event_id, sent_at = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    body = request._read_bytes
    digest = hmac.digest(SECRET, f"{event_id}.{sent_at}.".encode() + body, "sha256")
    is_signed = request.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    return is_signed and abs(time.time() - int(sent_at)) < 300
