"""Load: Locust against a platform that misbehaves, and against the real one. test_load_scenarios.py has the pure part,
test_load_users.py what is special of some scenarios.
"""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiohttp import web
from fake_platform import FakeOrders, locust, serving, start_locust, write_keys
from holdfast_local.chaos_settings import passing_settings
from holdfast_local.errors import RunnerError
from holdfast_local.load import load
from holdfast_local.platform import running_platform
from holdfast_local.ports import free_port
from rich.console import Console
from waiting import eventually


@pytest.fixture
async def orders() -> AsyncIterator[FakeOrders]:
    async with serving() as fake:
        yield fake


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_keys(tmp_path / "keys")


async def test_a_service_in_order_keeps_every_limit_and_the_table_names_routes(orders, keys, tmp_path):
    page = tmp_path / "load.html"
    ended = await locust(orders.url, keys, "--seconds", "2", "--rate", "5", "--html", str(page))
    assert ended.violated == [], ended.output
    assert "✔ holds     0 of" in page.read_text()
    shares = {user: float(share) for user, share in re.findall(r'"(\w+)": {"ratio": ([\d.]+)', page.read_text())}
    assert shares["Browser"] > shares["Buyer"] > shares["Abuser"] == 0
    rows = {" ".join(line.split()[:2]) for line in ended.output.splitlines() if line.startswith(("GET", "POST"))}
    assert rows >= {"POST /v1/orders", "GET /v1/orders/{order_id}", "GET /v1/orders", "GET /v1/products"}
    assert not any("order-" in row for row in rows)
    assert orders.keys == {"key-of-acme", "key-of-globex"}
    assert {len(asked) for asked in orders.asked.values()} == {1}


async def test_an_answer_is_counted_from_the_moment_its_user_was_meant_to_come(orders, keys):
    """Locust stands still for half of the run. Whoever was meant to come meanwhile has waited, though each request is
    answered at once.
    """
    process = await start_locust(orders.url, keys, "--seconds", "3", "--rate", "10")

    async def has_asked() -> bool:
        return bool(orders.keys)

    await eventually(has_asked)
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(1.5)  # how long it stands still
    process.send_signal(signal.SIGCONT)
    output, _ = await process.communicate()
    [row] = [line.split() for line in output.decode().splitlines() if line.startswith("GET      /v1/products ")][:1]
    answers, average = int(row[2]), int(row[5])
    assert answers > 30, output.decode()
    assert average > 200, output.decode()


async def test_no_more_orders_are_placed_than_allowed_and_the_seed_decides_what_is_bought(orders, keys):
    bought = []
    for _ in range(2):
        orders.placed.clear()
        ended = await locust(orders.url, keys, "--seconds", "1", "--rate", "10", "--orders", "4", "--seed", "7")
        assert ended.violated == [], ended.output
        bought.append(sorted(json.dumps(body) for body in orders.placed.values()))
    assert len(bought[0]) == 4
    assert bought[0] == bought[1]


async def test_a_refused_order_is_repeated_under_its_key_when_its_time_has_come_and_is_no_failure(orders, keys):
    def refuse_first(request: web.Request) -> web.Response | None:
        is_first = len(orders.asked.get(request.headers.get("Idempotency-Key", ""), ())) == 1
        return web.json_response({}, status=429, headers={"Retry-After": "1"}) if is_first else None

    orders.refuse = refuse_first
    ended = await locust(orders.url, keys, "--seconds", "1", "--rate", "5", "--orders", "2", "--scenario", "burst")
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
    ended = await locust(orders.url, keys, "--seconds", "1", "--rate", "10", "--orders", "2", "--scenario", "steady")
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
    ended = await locust(orders.url, keys, "--seconds", "1", "--rate", "10")
    assert ended.code == 1
    assert f"POST /v1/orders: {error}" in ended.output
    assert "0 of 0 orders" in ended.output


async def test_an_order_that_ends_otherwise_than_it_must_is_a_violation(orders, keys):
    orders.ends = lambda _: "cancelled"
    ended = await locust(orders.url, keys, "--seconds", "1", "--rate", "10", "--orders", "3")
    assert ended.code == 1
    assert "of 3 orders did not end as their card and their cancellation say" in ended.output


async def test_a_service_that_is_not_there_is_a_failure(keys):
    ended = await locust(f"http://127.0.0.1:{free_port()}", keys, "--seconds", "1", "--rate", "10")
    assert ended.code == 1
    assert "Connection refused" in ended.output


async def test_no_key_is_in_the_process_list_or_the_output(orders, keys):
    process = await start_locust(orders.url, keys, "--seconds", "2", "--rate", "5")

    async def has_asked() -> bool:
        return bool(orders.keys)

    await eventually(has_asked)
    shown = " ".join(psutil.Process(process.pid).cmdline())
    output, _ = await process.communicate()
    assert str(keys) in shown
    assert "key-of" not in shown + output.decode()


async def test_what_options_say_variables_may_say(orders, keys):
    given = {"LOAD_SCENARIO": "burst", "LOAD_SECONDS": "1", "LOAD_RATE": "5", "LOAD_ORDERS": "1"}
    given["LOAD_KEYS"] = str(keys / "acme")
    ended = await locust(orders.url, None, **given)
    assert "expected 5% to 100%" in ended.output
    assert len(orders.placed) == 1
    assert orders.keys == {"key-of-acme"}


async def test_a_host_that_is_not_this_machine_is_refused(keys):
    ended = await locust("http://192.0.2.1:8001", keys)
    assert ended.code == 2
    assert "is not on this machine: --allow-remote or LOAD_ALLOW_REMOTE=true" in ended.output


async def test_a_host_elsewhere_is_for_who_says_so(keys):
    ended = await locust("http://nobody.invalid", keys, "--seconds", "1", "--rate", "10", LOAD_ALLOW_REMOTE="true")
    assert ended.code == 1
    assert "requests failed" in ended.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scenario", "storm"], "there is no scenario 'storm'; there are abuse, burst, flash_sale"),
        (["--seconds", "0"], "0 is not between 1 and 86,400"),
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
        with pytest.raises(RunnerError, match=r"no scenario 'storm'; there are abuse, burst, flash_sale"):
            await load(settings, Console(), scenario="storm", options=[])
        assert not settings.state.exists()


async def test_without_a_running_platform_the_runner_starts_one_of_its_own(tmp_path):
    with passing_settings(tmp_path / "state") as settings:
        broken = settings.model_copy(update={"valkey_port": settings.postgres_port})
        with pytest.raises(RunnerError, match="valkey"):
            await load(broken, Console(), scenario="steady", options=[])
        assert (settings.state / "load" / "logs" / "valkey.log").exists()


async def test_the_real_platform_keeps_the_limits_and_the_oracle_has_the_last_word(capfd):
    """Steady, for a few seconds; then somebody changes what an order cost, which only the oracle sees."""
    options = ["--seconds", "3", "--rate", "3", "--orders", "5"]
    with passing_settings() as settings:
        async with running_platform(settings) as platform:
            await load(settings, Console(), scenario="steady", options=options)
            told = capfd.readouterr().out
            assert "Aggregated" in told
            assert "violated" not in told
            assert told.index("settled within") < told.index("All 31 invariants hold.")

            connection = await asyncpg.connect(platform.installation.database_dsn("orders"))
            await connection.execute(
                "UPDATE orders SET amount = amount + 1, paid_amount = amount + 1 WHERE paid_amount > 0"
            )
            await connection.close()
            with pytest.raises(RunnerError, match=r"^the oracle did not find that every invariant holds$"):
                await load(settings, Console(), scenario="steady", options=options)
