"""The command says what is wrong in a line each, before it opens anything, and explains where each value came from."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.logging.debugging import check_header
from chassis.pooling import Database
from service_process import CALLER, KEY, OrdersInstallation
from sqlalchemy import text


@pytest.fixture
def orders(tmp_path: Path, database_settings: DatabaseSettings, redis_settings: RedisSettings) -> OrdersInstallation:
    return OrdersInstallation.create(tmp_path, database_settings, redis_settings)


@pytest.mark.parametrize("command", ["api", "worker"])
async def test_a_wrong_configuration_ends_the_command_with_2_before_it_logs_or_listens(
    orders: OrdersInstallation, command: str
) -> None:
    orders.set("http__port", "99999")
    orders.set("htpp__port", "8001")
    orders.secret("auth__peppers", json.dumps([KEY[:31]]))
    ended = await orders.run(command, "--set", "cache.ttl=-1")
    assert ended.code == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    first, *problems = ended.stderr.splitlines()
    assert first == "The configuration is not valid:"
    assert sorted(problem.strip().partition(":")[0] for problem in problems) == [
        "HOLDFAST_AUTH__PEPPERS",
        "HOLDFAST_CACHE__TTL",
        "HOLDFAST_HTPP__PORT",
        "HOLDFAST_HTTP__PORT",
    ]
    assert KEY[:31] not in ended.stderr


async def test_explain_shows_each_value_and_its_layer_and_no_secret(orders: OrdersInstallation) -> None:
    ended = await orders.run("config", "explain", "--set", "http.port=8009")
    assert ended.code == 0
    settings = dict(line.split(" = ", 1) for line in ended.stdout.splitlines())
    assert settings["http.port"] == "8009  [command line] (shadows: environment)"
    assert settings["cache.ttl"].endswith("[default]")
    assert settings["database.password"].startswith("secret:")
    assert settings["auth.peppers"].startswith("[secret:")
    for path in (orders.folder / "secrets").iterdir():
        assert not path.read_text() or path.read_text() not in ended.stdout


async def test_explain_writes_out_the_sum_of_connections(orders: OrdersInstallation) -> None:
    given = ("database.pool_size=12", "database.budget.worker_replicas=3", "database.budget.others=60")
    ended = await orders.run("config", "explain", *(word for each in given for word in ("--set", each)))
    sums = "orders: 1 × (1 × 14 + 3 × 15) + 1 = 60; other services: 60; reserve: 10 (130 in all)"
    assert ended.stdout.splitlines()[-1] == f"# connections to the database, at most: {sums}"


async def test_explain_writes_out_the_calls_that_callers_may_cause(orders: OrdersInstallation) -> None:
    given = ("rate_limit.clients=3", 'rate_limit.edges={"orders": {"payments": 15}}')
    ended = await orders.run("config", "explain", *(word for each in given for word in ("--set", each)))
    sums = "(clients: 3 × 10 = 30) × 2 ÷ 5 = 12 (admitted: 15)"
    assert f"# calls to payments per second, at most: {sums}" in ended.stdout.splitlines()


@pytest.mark.parametrize("command", [("config", "explain"), ("api",), ("worker",)])
async def test_no_command_accepts_limits_that_do_not_fit(orders: OrdersInstallation, command: Sequence[str]) -> None:
    given = ("rate_limit.clients=3", "rate_limit.rate_per_second=50", 'rate_limit.edges={"orders": {"payments": 12}}')
    ended = await orders.run(*command, *(word for each in given for word in ("--set", each)))
    assert ended.code == 2
    assert "  rate_limit.edges.orders.payments is 12, but the callers of orders may cause 60 calls per second:" in (
        ended.stderr
    )
    assert "(clients: 3 × 50 = 150) × 2 ÷ 5 = 60\n" in ended.stderr


async def test_explain_tells_machines_the_same_as_json(orders: OrdersInstallation) -> None:
    ended = await orders.run("config", "explain", "--json", "--set", "http.port=8009")
    found = json.loads(ended.stdout)
    assert found["http.port"] == {"value": "8009", "layer": "command line", "shadowed": ["environment"]}
    assert found["database.password"]["value"].startswith("secret:")
    lines = (await orders.run("config", "explain", "--set", "http.port=8009")).stdout.splitlines()
    assert [line.partition(" = ")[0] for line in lines if not line.startswith("#")] == list(found)


async def test_dead_events_are_listed_and_replayed_by_the_service_s_command_which_says_who_did_it(
    orders: OrdersInstallation, database: Database
) -> None:
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO dead_event (consumer, stream, entry_id, event, reason)"
                " VALUES ('orders', 'payments', '7-1', '{', 'it cannot be read')"
            )
        )
    listed = await orders.run("events", "dead")
    assert "payments 7-1" in listed.stdout
    assert "it cannot be read" in listed.stdout
    tried = await orders.run("events", "replay", "--all", "--dry-run")
    assert (tried.stdout, tried.stderr) == ("would replay 1: 1\n", "")
    async with database.read() as session:
        assert await session.scalar(text("SELECT replay_at FROM dead_event")) is None
    replayed = await orders.run("events", "replay", "--all")
    assert replayed.stdout == "will replay 1: 1\n"
    audited = json.loads(replayed.stderr)
    assert (audited["event"], audited["event_numbers"]) == ("events_replayed", [1])
    assert audited["by"]
    async with database.read() as session:
        assert await session.scalar(text("SELECT replay_at FROM dead_event"))
    for command in ("show", "replay"):
        missing = await orders.run("events", command, "4711")
        assert (missing.code, missing.stderr) == (1, "there is no dead event 4711: it was replayed, or never existed\n")


async def test_a_command_about_jobs_uses_the_service_s_database(orders: OrdersInstallation) -> None:
    missing = await orders.run("jobs", "show", "4711")
    assert missing.code == 1
    assert missing.stderr == "there is no job 4711: it has completed, or never existed\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["jobs", "dead"], "there are no dead letters"),
        (["jobs", "dead", "--filter", "name=request_payment"], "there are no dead letters that the filters select"),
        (["jobs", "stats"], "there are no jobs"),
        (["events", "dead"], "there are no dead events"),
    ],
    ids=" ".join,
)
async def test_a_list_without_entries_says_so_beside_its_output(
    orders: OrdersInstallation, words: list[str], said: str
) -> None:
    """On standard error: a script that counts lines of the output counts none."""
    ended = await orders.run(*words)
    assert (ended.code, ended.stdout, ended.stderr) == (0, "", f"{said}\n")


@pytest.mark.parametrize(
    ("group", "said"), [("jobs", "replayed 0"), ("events", "will replay 0")], ids=["jobs", "events"]
)
async def test_a_replay_of_nothing_says_so(orders: OrdersInstallation, group: str, said: str) -> None:
    assert (await orders.run(group, "replay", "--all")).stdout == f"{said}\n"


async def test_a_running_process_says_who_it_is_and_writes_lines_with_every_id(orders: OrdersInstallation) -> None:
    headers = {
        **CALLER,
        "X-Request-ID": "req-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    async with orders.running("api") as process, httpx.AsyncClient() as client:
        info = (await client.get(f"{orders.management_url}/info")).json()
        metrics = (await client.get(f"{orders.management_url}/metrics")).text
        answer = await client.get(f"{orders.url}/v1/orders/none", headers=headers)
        process.terminate()
        ended = await process.end()
    assert (info["service"], info["role"], info["environment"]) == ("orders", "api", "test")
    assert f'config_info{{hash="{info["config_hash"]}"}} 1.0' in metrics
    assert answer.status_code == 422
    (started,) = ended.of("process_started")
    assert started["config_hash"] == info["config_hash"]
    (line,) = ended.of("request_completed")
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert (line["request_id"], line["principal"], line["error_code"]) == ("req-1", "acme", "VALIDATION_FAILED")
    assert (line["service"], line["instance"]) == ("orders", info["instance"])
    assert KEY not in ended.stdout


async def test_a_header_that_turns_debug_on_is_made_with_the_key_and_only_with_it(tmp_path: Path) -> None:
    orders = OrdersInstallation(folder=tmp_path)  # it needs no other setting
    assert (await orders.run("debug-header")).stderr == "the setting log.debug_key is needed to sign the header\n"
    orders.secret("log__debug_key", "k" * 32)
    ended = await orders.run("debug-header", "--seconds", "90")
    name, _, value = ended.stdout.strip().partition(": ")
    assert (ended.code, name) == (0, "X-Holdfast-Debug")
    assert check_header(value, "k" * 32, now=time.time()) == "accepted"
    assert check_header(value, "k" * 32, now=time.time() + 90) == "expired"
    assert "k" * 32 not in ended.stdout + ended.stderr
    assert (await orders.run("debug-header", "--seconds", "901")).code == 2
