"""Load: the scenarios' stages and limits, Locust against an orders API that misbehaves, and against the real platform.

Locust runs in processes of its own: it patches the standard library of the one it is in.
"""

import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import psutil
import pytest
from aiohttp import web
from holdfast_local.chaos_settings import passing_settings
from holdfast_local.errors import RunnerError
from holdfast_local.load import load, scenario_names
from holdfast_local.platform import running_platform
from holdfast_local.ports import free_port
from holdfast_local.settings import PROJECT
from rich.console import Console
from waiting import eventually

LOADTEST = PROJECT / "loadtest"
LOCUST = Path(sys.executable).with_name("locust")


def imported(name: str) -> ModuleType:
    """A module of loadtest that does not import Locust."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(LOADTEST))
        return import_module(name)


@pytest.fixture(scope="module")
def scenario() -> ModuleType:
    return imported("scenario")


@pytest.fixture(scope="module")
def scenarios() -> dict[str, Any]:
    return imported("scenarios").SCENARIOS


@pytest.fixture(scope="module")
def loopback() -> ModuleType:
    return imported("loopback")


def test_the_runner_knows_every_scenario(scenarios):
    assert scenario_names() == sorted(scenarios)


def test_the_stages_of_a_burst_are_calm_busy_calm_and_then_it_ends(scenarios):
    stages = [scenarios["burst"].stage_at(elapsed, within=45) for elapsed in (0, 9.9, 10, 29.9, 30, 44.9, 45)]
    assert [stage and stage.users for stage in stages] == [6, 6, 60, 60, 6, 6, None]


def test_a_shorter_run_has_the_same_stages(scenarios):
    stages = [scenarios["burst"].stage_at(elapsed, within=4.5) for elapsed in (0.9, 1.1, 2.9, 3.1, 4.6)]
    assert [stage and stage.users for stage in stages] == [6, 60, 60, 6, None]


def tally(scenario: ModuleType, **changed: Any) -> Any:
    sound = {
        "answers": 1000,
        "failed": 0,
        "given_up": 0,
        "exceptions": 0,
        "rate_limited": 100,
        "overloaded": 10,
        "slowest": ("GET /v1/orders", 0.5),
        "placed": 100,
        "unsettled": 0,
        "settled": 2.0,
    }
    return scenario.Tally(**sound | changed)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"failed": 1}, "1 of 1,000 requests failed"),
        ({"given_up": 3}, "3 were given up after refusals only"),
        ({"rate_limited": 49}, "49 were over a client's limit"),
        ({"rate_limited": 201}, "201 were over a client's limit"),
        ({"overloaded": 11}, "11 found the service overloaded"),
        ({"exceptions": 2}, "2 errands ended with an exception"),
        ({"slowest": ("GET /v1/orders", 1.1)}, "GET /v1/orders came within 1.10 s"),
        ({"unsettled": 1}, "1 of 100 orders did not end"),
        ({"settled": 5.1}, "settled within 5.1 s"),
    ],
)
def test_each_limit_that_is_not_kept_is_named(scenario, changed, said):
    limits = scenario.Limits(rate_limited=(0.05, 0.2), overloaded=0.01, answer_seconds=1, settled_seconds=5)
    assert all(line.holds for line in scenario.judge(tally(scenario), limits))
    [violated] = [str(line) for line in scenario.judge(tally(scenario, **changed), limits) if not line.holds]
    assert said in violated


def test_a_run_without_an_answer_or_an_order_holds_nothing(scenario):
    limits = scenario.Limits(rate_limited=(0.0, 1.0), overloaded=1.0, answer_seconds=1, settled_seconds=5)
    empty = tally(scenario, answers=0, rate_limited=0, overloaded=0, placed=0, slowest=("no route", 0.0), settled=0.0)
    violated = [line.text for line in scenario.judge(empty, limits) if not line.holds]
    assert len(violated) == 4


@dataclass(slots=True)
class FakeOrders:
    """An orders API of which a test decides how it misbehaves: `refuse` may answer any request before it is served."""

    url: str = ""
    refuse: Callable[[web.Request], web.Response | None] = lambda _: None
    ends: Callable[[dict[str, Any]], str] = lambda body: (
        "confirmed" if body["payment_method"] == "pm_card_ok" else "cancelled"
    )
    keys: set[str] = field(default_factory=set)
    placed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The body of each order by its Idempotency-Key."""
    asked: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When an order was asked for, by its Idempotency-Key, refusals included."""
    _orders: dict[str, str] = field(default_factory=dict)

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._middleware])
        application.router.add_post("/v1/orders", self._place)
        application.router.add_post("/v1/orders/{id}/cancel", self._cancel)
        application.router.add_get("/v1/orders/{id}", self._get)
        application.router.add_get("/v1/{list}", self._list)
        return application

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        self.keys.add(request.headers["Authorization"].removeprefix("Bearer "))
        if key := request.headers.get("Idempotency-Key"):
            self.asked[key].append(time.monotonic())
        return self.refuse(request) or await handler(request)

    async def _place(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.placed[request.headers["Idempotency-Key"]] = body
        order_id = f"order-{len(self._orders)}"
        self._orders[order_id] = self.ends(body)
        return web.json_response({"id": order_id, "status": "pending"}, status=201)

    async def _cancel(self, request: web.Request) -> web.Response:
        self._orders[request.match_info["id"]] = "cancelled"
        return web.json_response({"id": request.match_info["id"], "status": "cancelling"}, status=202)

    async def _get(self, request: web.Request) -> web.Response:
        order_id = request.match_info["id"]
        return web.json_response({"id": order_id, "status": self._orders[order_id]})

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"items": []})


@pytest.fixture
async def orders() -> AsyncIterator[FakeOrders]:
    fake = FakeOrders()
    runner = web.AppRunner(fake.application(), shutdown_timeout=1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    fake.url = f"http://127.0.0.1:{port}"
    yield fake
    await runner.cleanup()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder of keys, with what a mounted Secret has beside them."""
    folder = tmp_path / "keys"
    (folder / "..data").mkdir(parents=True)
    for client in ("acme", "globex"):
        (folder / client).write_text(f"key-of-{client}\n")
    return folder


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    output: str


async def start_locust(url: str, keys: Path | None, *options: str, **variables: str) -> asyncio.subprocess.Process:
    command = [LOCUST, "-f", LOADTEST / "locustfile.py", "--headless", "--only-summary", "--loglevel", "ERROR"]
    command += ["--host", url, *(["--keys", keys] if keys else []), *options]
    return await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def locust(url: str, keys: Path | None, *options: str, **variables: str) -> Ended:
    process = await start_locust(url, keys, *options, **variables)
    try:
        async with asyncio.timeout(50):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode, output.decode())


async def test_a_service_in_order_keeps_every_limit_and_the_table_names_routes(orders, keys):
    ended = await locust(orders.url, keys, "--seconds", "2")
    assert ended.code == 0, ended.output
    assert "violated" not in ended.output
    rows = {" ".join(line.split()[:2]) for line in ended.output.splitlines() if line.startswith(("GET", "POST"))}
    assert rows >= {"POST /v1/orders", "GET /v1/orders/{order_id}", "GET /v1/orders", "GET /v1/products"}
    assert not any("order-" in row for row in rows)
    assert orders.keys == {"key-of-acme", "key-of-globex"}
    assert {len(asked) for asked in orders.asked.values()} == {1}


async def test_no_more_orders_are_placed_than_allowed_and_the_seed_decides_what_is_bought(orders, keys):
    bought = []
    for _ in range(2):
        orders.placed.clear()
        ended = await locust(orders.url, keys, "--seconds", "1", "--orders", "4", "--seed", "7")
        assert ended.code == 0, ended.output
        bought.append(sorted(json.dumps(body) for body in orders.placed.values()))
    assert len(bought[0]) == 4
    assert bought[0] == bought[1]


async def test_a_refused_order_is_repeated_under_its_key_when_its_time_has_come_and_is_no_failure(orders, keys):
    def refuse_first(request: web.Request) -> web.Response | None:
        is_first = len(orders.asked.get(request.headers.get("Idempotency-Key", ""), ())) == 1
        return web.json_response({}, status=429, headers={"Retry-After": "1"}) if is_first else None

    orders.refuse = refuse_first
    ended = await locust(orders.url, keys, "--seconds", "1", "--orders", "2", "--scenario", "burst")
    assert "POST     /v1/orders (429)" in ended.output
    assert "✔ holds     0 of" in ended.output
    waits = [second - first for first, second in orders.asked.values()]
    assert len(waits) == 2
    assert min(waits) >= 1


async def test_more_refusals_than_the_scenario_allows_are_a_violation(orders, keys):
    number = count()
    orders.refuse = lambda _: (
        web.json_response({}, status=429, headers={"Retry-After": "0"}) if next(number) % 2 else None
    )
    ended = await locust(orders.url, keys, "--seconds", "1", "--orders", "2", "--scenario", "steady")
    assert ended.code == 1
    assert "✔ holds     0 of" in ended.output
    assert "were over a client's limit" in next(line for line in ended.output.splitlines() if "violated" in line)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": 500, "body": b'{"error": {"code": "INTERNAL"}}'}, "500 INTERNAL"),
        ({"status": 201, "body": b"<html>"}, "201 no JSON object"),
        ({"status": 429, "body": b"{}", "headers": {"Retry-After": "86400"}}, "429"),
        ({"status": 307, "body": b"{}", "headers": {"Location": "http://192.0.2.1/v1/orders"}}, "307"),
    ],
    ids=["error", "no JSON", "a day of Retry-After", "redirect"],
)
async def test_any_other_answer_is_a_failure_and_not_followed(orders, keys, answer, error):
    orders.refuse = lambda _: web.Response(**answer)
    ended = await locust(orders.url, keys, "--seconds", "1")
    assert ended.code == 1
    assert f"POST /v1/orders: {error}" in ended.output
    assert "0 of 0 orders" in ended.output


async def test_an_order_that_ends_otherwise_than_it_must_is_a_violation(orders, keys):
    orders.ends = lambda _: "cancelled"
    ended = await locust(orders.url, keys, "--seconds", "1", "--orders", "3")
    assert ended.code == 1
    assert "of 3 orders did not end as their card and their cancellation say" in ended.output


async def test_a_service_that_is_not_there_is_a_failure(keys):
    ended = await locust(f"http://127.0.0.1:{free_port()}", keys, "--seconds", "1")
    assert ended.code == 1
    assert "Connection refused" in ended.output


async def test_no_key_is_in_the_process_list_or_the_output(orders, keys):
    process = await start_locust(orders.url, keys, "--seconds", "2")

    async def has_asked() -> bool:
        return bool(orders.keys)

    await eventually(has_asked)
    shown = " ".join(psutil.Process(process.pid).cmdline())
    output, _ = await process.communicate()
    assert str(keys) in shown
    assert "key-of" not in shown + output.decode()


async def test_what_options_say_variables_may_say(orders, keys):
    given = {"LOAD_SCENARIO": "burst", "LOAD_SECONDS": "1", "LOAD_ORDERS": "1", "LOAD_KEYS": str(keys / "acme")}
    ended = await locust(orders.url, None, **given)
    assert "expected 10% to 100%" in ended.output
    assert len(orders.placed) == 1
    assert orders.keys == {"key-of-acme"}


def test_only_this_machines_own_addresses_are_loopback(loopback):
    for url in ("http://127.0.0.1:8001", "http://localhost", "http://[::1]:8001", "http://127.9.9.9"):
        assert loopback.is_loopback(url), url
    for url in (
        "http://192.0.2.1:8001",
        "http://orders.example",
        "http://127.0.0.1@192.0.2.1",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "http://0.0.0.0:8001",
        "127.0.0.1:8001",
    ):
        assert not loopback.is_loopback(url), url


async def test_a_host_that_is_not_this_machine_is_refused(keys):
    ended = await locust("http://192.0.2.1:8001", keys)
    assert ended.code == 2
    assert "is not on this machine: --allow-remote or LOAD_ALLOW_REMOTE=true" in ended.output


async def test_a_host_elsewhere_is_for_who_says_so(keys):
    ended = await locust("http://nobody.invalid", keys, "--seconds", "1", LOAD_ALLOW_REMOTE="true")
    assert ended.code == 1
    assert "requests failed" in ended.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scenario", "storm"], "there is no scenario 'storm'; there are burst, steady"),
        (["--seconds", "0"], "0 is not between 1 and 3,600"),
        (["--processes", "2"], "there is one process"),
    ],
)
async def test_a_wrong_option_is_told_before_anything_is_asked(orders, keys, options, said):
    ended = await locust(orders.url, keys, *options)
    assert ended.code == 2
    assert said in ended.output
    assert orders.keys == set()


async def test_without_a_key_nothing_is_asked(orders, tmp_path):
    (tmp_path / "empty").mkdir()
    for place, said in (
        (None, "--keys or LOAD_KEYS is missing"),
        (tmp_path / "empty", "holds no key, or an empty one"),
    ):
        ended = await locust(orders.url, place)
        assert ended.code == 2
        assert said in ended.output
    assert orders.keys == set()


async def test_the_runner_does_not_start_for_a_scenario_that_does_not_exist(tmp_path):
    with passing_settings(tmp_path / "state") as settings:
        with pytest.raises(RunnerError, match=r"no scenario 'storm'; there are burst, steady"):
            await load(settings, Console(), scenario="storm", options=[])
        assert not settings.state.exists()


async def test_without_a_running_platform_the_runner_starts_one_of_its_own(tmp_path):
    with passing_settings(tmp_path / "state") as settings:
        broken = settings.model_copy(update={"valkey_port": settings.postgres_port})
        with pytest.raises(RunnerError, match="valkey"):
            await load(broken, Console(), scenario="steady", options=[])
        assert (settings.state / "load" / "logs" / "valkey.log").exists()


@pytest.mark.timeout(180)
async def test_the_real_platform_keeps_the_limits_and_the_oracle_has_the_last_word(capfd):
    """Steady, for a few seconds; then somebody changes what an order cost, which only the oracle sees."""
    options = ["--seconds", "3", "--orders", "5"]
    with passing_settings() as settings:
        async with running_platform(settings) as platform:
            await load(settings, Console(), scenario="steady", options=options)
            told = capfd.readouterr().out
            assert "Aggregated" in told
            assert "violated" not in told
            assert told.index("settled within") < told.index("All 16 invariants hold.")

            connection = await asyncpg.connect(platform.installation.database_dsn("orders"))
            await connection.execute(
                "UPDATE orders SET amount = amount + 1, paid_amount = amount + 1 WHERE paid_amount > 0"
            )
            await connection.close()
            with pytest.raises(RunnerError, match=r"^the oracle did not find that every invariant holds$"):
                await load(settings, Console(), scenario="steady", options=options)
