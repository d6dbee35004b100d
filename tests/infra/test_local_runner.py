"""The bare-machine runner as a whole: one run at a time, ports, secrets, and nothing left behind.

The services are stand-ins that answer /readyz; PostgreSQL and Valkey are real.
"""

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import psutil
import pytest
from chassis.auth.api_keys import prefix_of
from holdfast_local import topology
from holdfast_local.errors import RunnerError
from holdfast_local.installation import Installation
from holdfast_local.platform import Platform, running_platform
from holdfast_local.ports import free_port
from holdfast_local.runs import ProcessRecord, ProgramRecord, RunRecord, end_leftovers, only_run, read_record
from holdfast_local.secrets import SCOPES, load_or_create
from holdfast_local.settings import LocalSettings, load_settings
from holdfast_local.state import fresh_state, present_settings, remove_state
from holdfast_local.supervisor import Change, Event

COMMANDS = ("orders", "payments", "notifications", "webhook-ingest", "payment-provider", "mailbox", "customer-endpoint")
STAND_IN = f"""#!{sys.executable}
import os, contextlib, socket, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if sys.argv[1] in ("migrate", "api-keys"):
    sys.exit(0)
port = options.get("--port") or options.get("--http-port") or os.environ["HOLDFAST_MANAGEMENT__PORT"]
server = socket.create_server(("127.0.0.1", int(port)))
while True:
    client, _ = server.accept()
    with client, contextlib.suppress(OSError):  # whoever asked may have given up
        client.recv(1000)
        client.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
"""


def stand_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> LocalSettings:
    """A state folder of its own, free ports, and stand-ins for the services' commands."""
    commands = folder / "bin"
    commands.mkdir()
    for name in COMMANDS:
        (commands / name).write_text(STAND_IN)
        (commands / name).chmod(0o755)
    monkeypatch.setattr(topology, "_COMMANDS", commands)
    monkeypatch.setenv("LOCAL_STATE", str(folder / "state"))
    monkeypatch.setenv("LOCAL_POSTGRES_DURABLE", "false")
    for name in LocalSettings.model_fields:
        if name.endswith("_port"):
            monkeypatch.setenv(f"LOCAL_{name.upper()}", str(free_port()))
    return load_settings()


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Iterator[LocalSettings]:
    settings = stand_alone(tmp_path, monkeypatch)
    yield settings
    remove_state(settings.state)


@pytest.fixture(scope="module")
async def running(tmp_path_factory) -> AsyncIterator[Platform]:
    """A platform that several tests look at."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        settings = stand_alone(tmp_path_factory.mktemp("running"), monkeypatch)
        async with running_platform(settings) as platform:
            yield platform
        remove_state(settings.state)


@pytest.fixture
def run_command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the real command line in a process of its own, over the stand-ins."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        script = f"""
import sys
from pathlib import Path
from holdfast_local import cli, topology
topology._COMMANDS = Path({str(topology._COMMANDS)!r})
sys.argv[1:] = {list(arguments)!r}
cli.main()
"""
        command = [sys.executable, "-c", script]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def output_until(process: subprocess.Popen[str], pattern: str) -> str:
    """What the process printed up to a line with the pattern; pytest's time-out is the deadline."""
    seen = ""
    for line in process.stdout:
        seen += line
        if re.search(pattern, line):
            return seen
    pytest.fail(f"no line with {pattern!r} in:\n{seen}")


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    """What has ended and is still listed, where no process 1 asks for it (a container without an init), is gone too."""
    _, listed = psutil.wait_procs(processes, timeout=10)
    assert [process for process in listed if process.status() != psutil.STATUS_ZOMBIE] == []


async def test_the_platform_starts_in_order_and_stops_in_reverse(settings):
    events: list[Event] = []
    async with running_platform(settings, on_event=events.append) as platform:
        record = read_record(settings.state)
        assert {program.name for program in record.programs} >= {"postgres", "valkey", "orders-api", "orders-worker"}
        assert platform.ready_seconds == record.ready_seconds > 0
        assert platform.pid("orders-api") in {program.process.pid for program in record.programs}
        pids = [program.process.pid for program in record.programs]
    started = [event.program for event in events if event.change is Change.STARTED]
    ready = [(event.program, event.change) for event in events]
    assert set(started[:2]) == {"postgres", "valkey"}
    for before, after in (
        ("orders-migrate", "orders-api"),
        ("webhook-ingest-api", "payments-worker"),
        ("payments-api", "orders-worker"),
        ("mailbox", "notifications-worker"),
    ):
        arrived = next(i for i, told in enumerate(ready) if told in {(before, Change.READY), (before, Change.FINISHED)})
        assert arrived < ready.index((after, Change.STARTED))
    stopped = [event.program for event in events if event.change is Change.STOPPED]
    assert stopped.index("orders-worker") < stopped.index("payments-api") < stopped.index("postgres")
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert read_record(settings.state) is None


async def test_a_killed_worker_comes_back_with_another_pid_and_the_record_says_so(running):
    first = running.pid("orders-worker")
    running.kill("orders-worker")
    async with asyncio.timeout(10):
        await running.until_ready("orders-worker")
    assert running.pid("orders-worker") != first
    assert running.restarts("orders-worker") == 1
    programs = read_record(running.installation.settings.state).programs
    [recorded] = [program for program in programs if program.name == "orders-worker"]
    assert recorded.process.pid == running.pid("orders-worker")
    assert recorded.restarts == 1


async def test_every_service_has_its_database_and_only_that(running):
    dsn = running.installation.database_dsn("orders")
    own = await asyncpg.connect(dsn)
    assert await own.fetchval("SELECT current_user || '@' || current_database()") == "orders_app@orders"
    await own.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(dsn.removesuffix("/orders") + "/payments")


async def test_servers_of_the_environment_replace_ours(running, monkeypatch):
    monkeypatch.setenv("LOCAL_POSTGRES_DSN", running.installation.postgres.dsn)
    monkeypatch.setenv("LOCAL_VALKEY_DSN", running.installation.valkey.dsn)
    installation = Installation.load(load_settings())
    assert topology.servers(installation) == []
    await installation.create_databases()
    [api] = [program for program in topology.services(installation) if program.name == "orders-api"]
    assert api.env["HOLDFAST_DATABASE__PORT"] == str(running.installation.postgres.port)
    assert api.env["HOLDFAST_REDIS__PORT"] == str(running.installation.valkey.port)
    assert "LOCAL_POSTGRES_DSN" not in api.env


def test_no_secret_is_on_a_command_line_or_in_an_environment(settings):
    installation = Installation.load(settings)
    values = [file.read_text() for file in installation.secrets.folder.rglob("*") if file.is_file()]
    shown = [
        " ".join([*map(str, program.command), *(program.env or {}).values()])
        for program in (*topology.servers(installation), *topology.services(installation))
    ]
    assert len(values) > 20
    assert not [value for value in values for text in shown if value in text]
    assert not [value for value in values if value in repr(installation.secrets)]


def test_secrets_are_private_and_stable_and_a_service_is_not_told_its_callers_keys(tmp_path):
    secrets = load_or_create(tmp_path / "secrets")
    for path in (tmp_path / "secrets").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert all(prefix_of(key) for key in secrets.client_keys.values())
    for service in ("orders", "notifications"):
        given = {path.name: path.read_text() for path in secrets.of(service).iterdir()}
        assert not set(secrets.client_keys.values()) & set(given.values())
        assert given["auth__peppers"] == (secrets.of(f"{service}-migrate") / "auth__peppers").read_text()
    (signed_with,) = json.loads((secrets.of("payments") / "auth__service_secrets").read_text())["orders"]
    assert signed_with == (secrets.of("orders") / "payments__token_secret").read_text()
    assert "database__migration_password" not in {path.name for path in secrets.of("orders").iterdir()}
    assert load_or_create(tmp_path / "secrets") == secrets


def test_clients_are_registered_after_the_migration_by_its_role_and_before_anybody_is_answered(settings):
    installation = Installation.load(settings)
    programs = {program.name: program for program in topology.services(installation)}
    assert {name for name in programs if name.endswith("-keys")} == {f"{service}-keys" for service in SCOPES}
    for service, scopes in SCOPES.items():
        registration = programs[f"{service}-keys"]
        assert registration.after == {f"{service}-migrate"}
        assert f"{service}-keys" in programs[f"{service}-api"].after
        given = [word for scope in scopes for word in ("--scope", scope)]
        assert registration.command[1:] == ["api-keys", "register", str(installation.secrets.of("clients")), *given]
        _, by_hand = topology.command_of(installation, service, ["api-keys", "list"])
        for environment in (registration.env, by_hand):
            assert environment["HOLDFAST_SECRETS_DIR"] == str(installation.secrets.of(f"{service}-migrate"))


def test_a_wrong_setting_is_named_without_a_traceback(settings, run_command, monkeypatch):
    monkeypatch.setenv("LOCAL_ORDERS_PORT", "none")
    process = run_command("up")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert output.startswith("LOCAL_ORDERS_PORT: ")
    assert "Traceback" not in output


def test_a_free_port_is_given_to_nobody_else_of_the_same_process():
    assert len({free_port() for _ in range(1_000)}) == 1_000


def test_two_programs_with_the_same_port_are_named_before_anything_starts(settings, run_command, monkeypatch):
    monkeypatch.setenv("LOCAL_NOTIFICATIONS_MANAGEMENT_PORT", str(settings.mailbox_port))
    process = run_command("up")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert f"LOCAL_NOTIFICATIONS_MANAGEMENT_PORT and LOCAL_MAILBOX_PORT are both {settings.mailbox_port}" in output
    assert "Traceback" not in output
    assert not (settings.state / "postgres").exists()


def test_the_offset_moves_every_port_and_a_relative_state_folder_lies_in_the_tree(monkeypatch):
    monkeypatch.setenv("LOCAL_PORT_OFFSET", "10")
    monkeypatch.setenv("LOCAL_STATE", ".holdfast-two")
    settings = load_settings()
    assert settings.port("orders") == settings.orders_port + 10
    assert settings.state == Path(topology.__file__).parents[4] / ".holdfast-two"


def test_a_taken_port_names_who_wants_it_who_has_it_and_what_moves_it_before_anything_starts(settings, run_command):
    with socket.create_server(("127.0.0.1", settings.payments_port)):
        process = run_command("up")
        output, _ = process.communicate()
    assert process.returncode == 1
    assert f"port {settings.payments_port} is taken" in output
    assert f"(pid {os.getpid()})" in output
    assert "payments-api needs it; set LOCAL_PAYMENTS_PORT" in output
    assert "Traceback" not in output
    assert not (settings.state / "postgres").exists()


def test_up_shows_a_table_refuses_a_second_run_and_stops_by_down(settings, run_command):
    up = run_command("up")
    shown = output_until(up, "Ctrl-C stops it")
    children = children_of(up)
    assert re.search(rf"orders-api +http://127.0.0.1:{settings.orders_port} .*ready", shown)
    assert re.search(r"All processes use [\d,]+ MB \(PSS\), ready after \d+\.\d s", shown)

    each = [
        int(amount.replace(",", ""))
        for amount in re.findall(r"(?:running|ready) +([\d,]+) +0? *$", shown, re.MULTILINE)
    ]
    total = int(re.search(r"use ([\d,]+) MB", shown)[1].replace(",", ""))
    assert len(each) == 14
    assert total == pytest.approx(sum(each), abs=7)  # every row is rounded

    second = run_command("up")
    output, _ = second.communicate()
    assert second.returncode == 1
    assert re.search(rf"already running \(pid {up.pid}, since .*make down", output)

    status, _ = run_command("status").communicate()
    assert "notifications-worker" in status

    down = run_command("down")
    output, _ = down.communicate()
    assert "Holdfast has stopped" in output
    assert up.wait() == 0
    assert_gone(children)


@pytest.mark.parametrize("moment", ["Starting Holdfast", "postgres +ready", "Ctrl-C stops it"])
def test_ctrl_c_at_any_moment_leaves_nothing(settings, run_command, moment):
    up = run_command("up")
    output_until(up, moment)
    children = children_of(up)
    up.send_signal(signal.SIGINT)
    output, _ = up.communicate()
    assert up.returncode == 0
    assert "Traceback" not in output
    assert_gone(children)
    assert read_record(settings.state) is None


def test_a_second_ctrl_c_does_not_wait_for_anybody(settings, run_command):
    deaf = STAND_IN.replace("import os,", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nimport os,")
    (topology._COMMANDS / "notifications").write_text(deaf)
    up = run_command("up")
    output_until(up, "Ctrl-C stops it")
    children = children_of(up)
    up.send_signal(signal.SIGINT)
    output_until(up, "orders-api +stopped")
    up.send_signal(signal.SIGINT)
    assert re.search("notifications-worker +stopped .*killed", output_until(up, "notifications-worker"))
    assert up.wait(timeout=10) == 0
    assert_gone(children)


def test_nothing_survives_a_runner_that_is_killed_and_the_next_one_starts(settings, run_command):
    up = run_command("up")
    output_until(up, "Ctrl-C stops it")
    children = children_of(up)
    up.kill()
    up.communicate()
    assert_gone(children)
    again = run_command("up")
    output_until(again, "Ctrl-C stops it")
    again.terminate()
    again.communicate()
    assert again.returncode == 0


@pytest.fixture
def sleeper() -> Iterator[psutil.Process]:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


@pytest.fixture
def record(tmp_path, sleeper) -> Callable[[float], None]:
    """Writes the record of a run whose runner is dead, naming the sleeper with its start moved by some seconds."""

    def write(moved_by: float) -> None:
        process = ProcessRecord(pid=sleeper.pid, created=sleeper.create_time() + moved_by)
        program = ProgramRecord(
            name="worker", process=process, address="", management="", restarts=0, stop_signal=signal.SIGTERM
        )
        RunRecord(runner=process, since=datetime.now(UTC), programs=(program,)).write(tmp_path)

    return write


def test_what_a_killed_runner_left_is_ended_by_the_next(tmp_path, sleeper, record):
    record(moved_by=0.0)
    with only_run(tmp_path):
        assert not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_only_has_the_number_of_a_leftover_is_spared(tmp_path, sleeper, record):
    record(moved_by=-60.0)
    assert end_leftovers(tmp_path) == []
    assert sleeper.is_running()


def test_one_state_folder_has_one_runner(tmp_path):
    with only_run(tmp_path):
        script = (
            "import sys, pathlib; from holdfast_local.runs import only_run\n"
            "with only_run(pathlib.Path(sys.argv[1])): pass"
        )
        second = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert "already running" in second.stderr


async def test_while_a_run_has_a_platform_of_its_own_other_commands_are_about_that(settings, run_command):
    """`make explain ORDER=…` while `make load` runs."""
    with fresh_state(settings, "load") as own:
        async with running_platform(own):
            assert present_settings() == own
            status, _ = await asyncio.to_thread(run_command("status").communicate)
            assert "notifications-worker" in status
            started, _ = await asyncio.to_thread(run_command("load", "steady").communicate)
            assert "already running" in started
    assert present_settings() == settings


async def test_clean_removes_what_the_runner_made_and_nothing_else(settings, run_command):
    async with running_platform(settings) as platform:
        outside = platform.outside_folder
    (settings.state / "mine.txt").write_text("not the runner's")
    run_command("clean").communicate()
    assert [path.name for path in settings.state.iterdir()] == ["mine.txt"]
    assert outside is None or not outside.exists()


async def test_a_failed_start_is_an_error_and_leaves_nothing(settings):
    (topology._COMMANDS / "payments").write_text("#!/bin/sh\necho broken schema; exit 3\n")
    with pytest.raises(RunnerError, match=r"(?s)payments-migrate exited with 3.*broken schema"):
        async with running_platform(settings):
            pytest.fail("it must not become ready")
    assert read_record(settings.state) is None
