"""Load shedding: the last places are for critical routes, by property, in an application and in a real API."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from backends import FreshDatabase
from chassis.app.api import ApiResources, Application, Caller, Router
from chassis.app.api.load_shedding import Criticality, LoadShedder, has_slot, load_shed
from chassis.auth import Authenticator
from chassis.auth.api_keys import ApiKeys
from chassis.config import Live
from chassis.config.settings import (
    AuthSettings,
    DatabaseSettings,
    HttpSettings,
    RateLimitSettings,
    RedisSettings,
    ServiceSettings,
)
from chassis.errors import ApiError, ErrorCode
from chassis.pooling import create_redis
from chassis.rate_limiting import RateLimiter
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from service_process import CALLER, OrdersInstallation
from waiting import eventually

limits = st.builds(
    lambda most, shares: HttpSettings(
        max_concurrent_requests=most, sheddable_share=min(shares), default_share=max(shares)
    ),
    st.integers(1, 8),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)
# A class arrives, or (None) the request that has been here longest leaves.
movements = st.lists(st.sampled_from(["critical", "default", "sheddable", None]), max_size=60)


@given(limits=limits, movements=movements)
@example(limits=HttpSettings(max_concurrent_requests=10), movements=[*["default"] * 10, *["critical"] * 2])
def test_the_others_never_take_the_places_that_are_kept_for_critical_requests(
    limits: HttpSettings, movements: Sequence[Criticality | None]
) -> None:
    most = limits.max_concurrent_requests
    kept = most - max(1, int(most * limits.default_share))
    here: list[Criticality] = []
    for arriving in movements:
        if arriving is None:
            here = here[1:]
            continue
        is_in = has_slot(len(here), arriving, limits)
        if arriving == "critical" and Counter(here)["critical"] < kept:
            assert is_in
        if arriving == "sheddable" and is_in:
            assert has_slot(len(here), "default", limits)
        here += [arriving] if is_in else []
        assert len(here) <= most
        assert here or not is_in


def test_an_idle_process_takes_any_request_whatever_the_shares() -> None:
    smallest = HttpSettings(max_concurrent_requests=1, default_share=0.01, sheddable_share=0.01)
    classes: list[Criticality] = ["critical", "default", "sheddable"]
    assert all(has_slot(0, one, smallest) for one in classes)
    assert not any(has_slot(1, one, smallest) for one in classes)


async def test_a_place_comes_back_after_an_error_and_after_cancellation() -> None:
    shedder = LoadShedder(lambda: HttpSettings(max_concurrent_requests=1))
    with pytest.raises(RuntimeError), shedder.slot("critical"):
        raise RuntimeError

    async def hang() -> None:
        with shedder.slot("critical"):
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as refused, shedder.slot("critical"):
        pass
    assert refused.value.code is ErrorCode.OVERLOADED
    assert shedder.in_flight == 1
    task.cancel()
    await asyncio.wait([task])
    assert shedder.in_flight == 0


# In an application


class Settings(ServiceSettings):
    service_name = "shop"


router = Router()


@router.post("/pay", access="orders:write", criticality="critical")
async def pay(body: dict[str, int], caller: Caller) -> str:
    return f"{caller.id}: {body}"


@router.post("/search", access="orders:read", criticality="sheddable")
async def search(body: dict[str, int], caller: Caller) -> str:
    return f"{caller.id}: {body}"


@pytest.fixture
def live() -> Live[Settings]:
    database = DatabaseSettings(name="none", user="none", password=SecretStr("none"))
    return Live(Settings(database=database, http=HttpSettings(max_concurrent_requests=10)))


@pytest.fixture
async def app(live: Live[Settings]) -> AsyncIterator[Application]:
    app = Application(lambda: live.current.http, routers=[router])
    none: Any = None
    nobody = Authenticator(ApiKeys(none, AuthSettings), AuthSettings, service="shop")
    # Strangers are limited, too: here by this process alone, since nothing listens on that port.
    redis = create_redis(RedisSettings(port=9), timeout=1)
    limiter = RateLimiter(redis, RateLimitSettings, service="shop")
    app.resources = ApiResources(
        database=none, health=none, redis=none, rate_limiter=limiter, authenticator=nobody, checks={}
    )
    async with app.router.lifespan_context(app):
        yield app


async def ask(app: Application, path: str, *, hears: bool = True) -> SimpleNamespace:
    """POST without a key; fails when the body is read though it must not be (`hears`)."""
    answer = SimpleNamespace(status=0, headers={})

    async def receive() -> dict[str, object]:
        assert hears, "the body was read"
        return {"type": "http.request", "body": b"{}"}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], dict(message["headers"])  # type: ignore[call-overload]

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "scheme": "http"}
    await app({**scope, "headers": [(b"content-type", b"application/json")]}, receive, send)  # type: ignore[arg-type]
    return answer


async def test_a_request_is_shed_by_its_route_before_its_body_is_read_or_its_caller_known(app: Application) -> None:
    shedder = app.load_shedder
    before = load_shed.labels("sheddable")._value.get()
    with ExitStack() as others:
        for _ in range(5):
            others.enter_context(shedder.slot("critical"))
        shed = await ask(app, "/search", hears=False)
        assert (shed.status, shed.headers[b"retry-after"]) == (503, b"1")
        assert (await ask(app, "/pay", hears=False)).status == 401  # it was taken in, and has no key
    assert load_shed.labels("sheddable")._value.get() == before + 1
    assert (await ask(app, "/search", hears=False)).status == 401


async def test_another_limit_holds_for_the_next_request(app: Application, live: Live[Settings]) -> None:
    with app.load_shedder.slot("critical"):
        assert (await ask(app, "/pay")).status == 401
        http = live.current.http.model_copy(update={"max_concurrent_requests": 1})
        live.replace(live.current.model_copy(update={"http": http}))
        assert (await ask(app, "/pay", hears=False)).status == 503


def test_a_route_says_in_the_document_how_critical_it_is(app: Application) -> None:
    document = app.openapi()
    assert document["paths"]["/pay"]["post"]["x-criticality"] == "critical"
    assert document["paths"]["/search"]["post"]["x-criticality"] == "sheddable"


# In a real API

ORDER = {
    "lines": [{"product_id": "rope", "quantity": 2}],
    "customer_email": "ada@example.com",
    "payment_method": "pm_card_ok",
}


class Overload:
    """A real API whose places are taken by uploads that never end."""

    def __init__(self, installation: OrdersInstallation, client: httpx.AsyncClient, stack: AsyncExitStack) -> None:
        self._installation = installation
        self._client = client
        self._stack = stack
        self._held = 0
        self._keys = 0

    async def hold(self, places: int) -> None:
        """Until so many requests are under way."""
        while self._held < places:
            self._held += 1
            await self._stack.enter_async_context(self._endless_upload())
        await eventually(lambda: self._is_under_way(places))

    async def release(self) -> None:
        await self._stack.aclose()
        await eventually(lambda: self._is_under_way(0))

    @asynccontextmanager
    async def _endless_upload(self) -> AsyncIterator[None]:
        _, writer = await asyncio.open_connection("127.0.0.1", self._installation.http_port)
        head = ["POST /v1/orders HTTP/1.1", "Host: orders", "Content-Type: application/json", "Content-Length: 100"]
        head += [f"{name}: {value}" for name, value in CALLER.items()]
        writer.write("\r\n".join([*head, "", "{"]).encode())
        try:
            yield
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _is_under_way(self, places: int) -> bool:
        return await self.metric("http_server_active_requests") == places

    async def metric(self, name: str, **labels: str) -> float:
        """From the management port, which is never limited."""
        page = (await self._client.get(f"{self._installation.management_url}/metrics")).text
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        return next((one.value for one in samples if one.name == name and one.labels == labels), 0)

    async def probes(self) -> list[int]:
        url = self._installation.management_url
        return [(await self._client.get(f"{url}/{probe}")).status_code for probe in ("livez", "readyz", "startupz")]

    async def list_orders(self) -> httpx.Response:
        return await self._client.get(f"{self._installation.url}/v1/orders", headers=CALLER)

    async def get_product(self) -> httpx.Response:
        return await self._client.get(f"{self._installation.url}/v1/products/rope", headers=CALLER)

    async def place_order(self) -> httpx.Response:
        self._keys += 1
        headers = {**CALLER, "Idempotency-Key": f"key-{self._keys}"}
        return await self._client.post(f"{self._installation.url}/v1/orders", headers=headers, json=ORDER)


@pytest.fixture
async def overload(
    tmp_path: Path, fresh_database: FreshDatabase, redis_settings: RedisSettings
) -> AsyncIterator[Overload]:
    installation = OrdersInstallation.create(tmp_path, await fresh_database("orders"), redis_settings)
    installation.set("http__max_concurrent_requests", "10")
    installation.set("rate_limit__burst", "1000")
    async with installation.running("api"), httpx.AsyncClient() as client, AsyncExitStack() as stack:
        yield Overload(installation, client, stack)


async def test_under_overload_listing_is_shed_first_and_placing_last_and_probes_never(overload: Overload) -> None:
    async def statuses() -> list[int]:
        answers = [await overload.list_orders(), await overload.get_product(), await overload.place_order()]
        shed = [answer for answer in answers if answer.status_code == 503]
        assert all(answer.json()["error"]["code"] == "OVERLOADED" for answer in shed)
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in shed)
        return [answer.status_code for answer in answers]

    assert await statuses() == [200, 200, 201]
    await overload.hold(5)
    assert await statuses() == [503, 200, 201]
    await overload.hold(8)
    assert await statuses() == [503, 503, 201]
    await overload.hold(10)
    assert await statuses() == [503, 503, 503]
    shed = [await overload.metric("load_shed_total", criticality=one) for one in ("sheddable", "default", "critical")]
    assert shed == [3, 2, 1]
    assert await overload.probes() == [200, 200, 200]
    await overload.release()
    assert await statuses() == [200, 200, 201]
