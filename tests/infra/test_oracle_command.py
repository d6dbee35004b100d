"""How the oracle is told where to ask, and what it prints."""

import ast
import json
import sys
from pathlib import Path

import oracle
import pytest
from holdfast_local.audit import audit_running, run_oracle
from holdfast_local.errors import RunnerError
from holdfast_local.installation import Installation
from holdfast_local.ports import free_port
from holdfast_local.settings import LocalSettings
from planting import CONFIRMED


async def test_a_file_or_stdin_tells_it_where_to_ask_and_variables_override_it(planted, ask, environment, tmp_path):
    values = {name.removeprefix("ORACLE_").lower(): value for name, value in environment.items()}
    text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    config = tmp_path / "oracle.toml"
    config.write_text(text)
    assert (await ask("--config", str(config), env={})).exit_code == 0
    assert (await ask("--config", "-", env={}, stdin=text)).exit_code == 0
    assert (await ask("--config", str(config), env={"ORACLE_MAILBOX_URL": "http://127.0.0.1:1"})).exit_code == 2


async def test_what_is_missing_or_unknown_in_the_configuration_is_named(ask, tmp_path):
    config = tmp_path / "oracle.toml"
    config.write_text('mailbox = "http://127.0.0.1"')
    assert "unknown keys: mailbox" in (await ask("--config", str(config), env={})).stderr
    assert "set ORACLE_ORDERS_DSN, or orders_dsn in --config" in (await ask(env={})).stderr
    assert "cannot read" in (await ask("--config", str(tmp_path / "absent.toml"), env={})).stderr


async def test_five_offenders_are_named_and_the_rest_counted(planted, ask):
    for _ in range(7):
        await planted.job("dead")
    result = await ask()
    assert result.stdout.count("request_payment is dead") == 5
    assert "… and 2 more" in result.stdout


async def test_piped_output_has_no_colour_and_no_folded_line(planted, ask):
    planted.copy(await planted.event(CONFIRMED, 2), domain="other.example")
    result = await ask()
    assert "\x1b" not in result.stdout
    assert all(line[0] in "✔✘– V" for line in result.stdout.splitlines())


def test_the_runner_hands_over_where_to_ask(tmp_path, capfd):
    ports = {name: free_port() for name in ("postgres_port", "payment_provider_port", "mailbox_port")}
    installation = Installation.load(LocalSettings(state=tmp_path, **ports))
    assert run_oracle(installation) == 2
    told = capfd.readouterr().err
    assert "cannot read the database of webhook-ingest" in told
    assert f"cannot read the mailbox at http://127.0.0.1:{ports['mailbox_port']}" in told


def test_the_runner_asks_only_about_a_platform_that_runs(tmp_path):
    with pytest.raises(RunnerError, match="not running"):
        audit_running(LocalSettings(state=tmp_path), [])


def test_the_judge_imports_nothing_of_whom_it_judges():
    allowed = {"oracle", "asyncpg", "aiohttp", "rich", "typer"} | sys.stdlib_module_names
    for module in Path(oracle.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, module.name
