"""The chassis' README: its picture is the layers, its imports exist, and its service runs."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
from api_keys import PEPPER
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.pooling import Database
from redis.asyncio import Redis
from service_process import OrdersInstallation
from sqlalchemy import text
from test_rule_of_ten import PATTERNS
from waiting import eventually

ROOT = Path(__file__).parents[2]
README = (ROOT / "services/chassis/README.md").read_text()


def test_the_picture_shows_the_layers_that_import_linter_checks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    picture, *_ = re.findall(r"^```\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    drawn = re.split(r"^[┌├└]─+[┐┤┘]$", picture, flags=re.MULTILINE)
    rooms = [re.findall(r"[a-z_]+", " ".join(re.findall(r"^│([^│]*)│", layer, re.MULTILINE))) for layer in drawn]
    assert [set(layer) for layer in rooms if layer] == [set(re.findall(r"[a-z_]+", layer)) for layer in layers]
    assert set(re.findall(r"([a-z_]+)\*", picture)) == set(PATTERNS)


@pytest.mark.parametrize("statement", re.findall(r"`(from chassis[^`]+)`", README))
def test_an_import_of_the_table_exists(statement: str) -> None:
    exec(statement, {})


@pytest.fixture
def greetings(tmp_path: Path, database_settings: DatabaseSettings, redis_settings: RedisSettings) -> OrdersInstallation:
    """The README's service, as a command that needs no installation."""
    files = re.findall(r"^```python\n# (greetings/[a-z]+\.py)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "greetings").mkdir()
    (tmp_path / "greetings" / "__init__.py").touch()
    for path, code in files:
        (tmp_path / path).write_text(code)
    command = tmp_path / "command"
    command.write_text(f"#!{sys.executable}\nfrom greetings.cli import main\nmain()\n")
    command.chmod(0o755)
    service = OrdersInstallation.bare(tmp_path, database_settings, redis_settings, command=str(command))
    service.secret("auth__peppers", json.dumps([PEPPER]))
    assert database_settings.migration_user
    assert database_settings.migration_password
    service.set("database__migration_user", database_settings.migration_user)
    service.secret("database__migration_password", database_settings.migration_password.get_secret_value())
    return service


def test_the_services_code_is_formatted_and_linted_as_all_code_is(greetings: OrdersInstallation) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    for check in (["format", "--check"], ["check"]):
        ended = subprocess.run(
            [ruff, *check, "--config", ROOT / "pyproject.toml", "greetings"],
            cwd=greetings.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout


async def test_the_service_answers_runs_its_job_and_handles_its_event(
    greetings: OrdersInstallation, database: Database, redis: Redis
) -> None:
    del redis  # it was emptied
    migrated = await greetings.run("migrate")
    assert migrated.code == 0, migrated.stderr
    created = await greetings.run("api-keys", "create", "acme", "--scope", "greetings:write")
    assert created.code == 0, created.stderr

    async with (
        greetings.running("api") as api,
        httpx.AsyncClient(base_url=greetings.url) as stranger,
        httpx.AsyncClient(
            base_url=greetings.url, headers={"Authorization": f"Bearer {created.stdout.strip()}"}
        ) as client,
    ):
        assert (await stranger.get("/v1/motto")).json() == {"text": "Hold fast."}
        assert (await stranger.post("/v1/greetings", json={"text": "hello"})).status_code == 401
        accepted = await client.post("/v1/greetings", json={"text": "hello"})
        assert (accepted.status_code, accepted.json()) == (202, {"text": "hello"})
        api.terminate()
        assert (await api.end()).code == 0

    async def is_handled() -> bool:
        async with database.read() as session:
            return await session.scalar(text("SELECT count(*) FROM inbox WHERE status = 'handled'")) == 1

    async with greetings.running("worker") as worker:
        await eventually(is_handled, seconds=60)
        worker.terminate()
        ended = await worker.end()
    assert ended.code == 0, ended.stdout
    assert [line["text"] for line in ended.of("greeting_heard")] == ["hello"]
