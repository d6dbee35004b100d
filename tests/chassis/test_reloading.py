"""A mounted file that changes is taken over as a whole or not at all; what may not change waits for a restart."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from captured_logs import CapturedLogs, captured_logs
from chassis.config import Live, config_hash, load_live
from chassis.config.settings import BudgetSettings, ExternalDependencySettings, RedisSettings, Rule, ServiceSettings
from chassis.logging import levels
from chassis.process.reloading import Result, allow_list, reload, reloading, take_over
from chassis.process.running import identify
from prometheus_client import REGISTRY
from pydantic import SecretStr
from waiting import eventually


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "shop"

    supplier: ExternalDependencySettings


class Mount:
    """Files as the kubelet mounts them: each name is a link through `..data`, which points to a folder of that time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._times = 0
        self._files: dict[str, str] = {}
        folder.mkdir()

    def write(self, **files: str | None) -> None:
        """These files in place of those of the same name, None takes one away; swapped in one step."""
        self._files = {name: text for name, text in (self._files | files).items() if text is not None}
        self._times += 1
        version = self._folder / f"..version_{self._times}"
        version.mkdir()
        for name, text in self._files.items():
            (version / name).write_text(text)
            if not (self._folder / name).is_symlink():
                (self._folder / name).symlink_to(Path("..data") / name)
        (self._folder / "..data_tmp").symlink_to(version.name)
        (self._folder / "..data_tmp").replace(self._folder / "..data")
        for link in self._folder.iterdir():
            if link.is_symlink() and not link.exists():
                link.unlink()


class Installation:
    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.config = Mount(folder / "config")
        self.secrets = Mount(folder / "secrets")
        patch.chdir(folder)
        patch.setenv("HOLDFAST_SERVICE_FILE", str(folder / "config" / "config.yaml"))
        patch.setenv("HOLDFAST_SECRETS_DIR", str(folder / "secrets"))
        self.configure()
        self.secrets.write(database__password="first", supplier__api_key="key")

    def configure(self, text: str = "") -> None:
        required = "database: {name: shop, user: shop_app}\nsupplier: {base_url: 'http://supplier'}\n"
        self.config.write(**{"config.yaml": required + text})


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    return Installation(tmp_path, monkeypatch)


@pytest.fixture
def live(installation: Installation) -> Live[Settings]:
    return load_live(Settings)


@pytest.fixture
def logs() -> Iterator[CapturedLogs]:
    with captured_logs() as logs:
        yield logs


def counted(result: Result) -> float:
    return REGISTRY.get_sample_value("config_reload_total", {"result": result}) or 0.0


async def test_files_that_did_not_change_are_not_even_read(installation: Installation, live: Live[Settings]) -> None:
    before = live.current
    assert await reload(live) == set()
    assert live.current is before


async def test_what_may_change_is_taken_over_and_the_snapshot_before_stays_as_it_was(
    installation: Installation, live: Live[Settings], logs: CapturedLogs
) -> None:
    before, count = live.current, counted("applied")
    installation.configure("rate_limit: {rate_per_second: 3, tiers: {gold: 2}}\nlog: {level: DEBUG}")
    installation.secrets.write(database__password="newer", database__next_password="third")
    assert await reload(live) == {"applied"}
    assert (live.current.rate_limit.rate_per_second, live.current.log.level) == (3, "DEBUG")
    assert live.current.database.passwords == (SecretStr("newer"), SecretStr("third"))
    assert before.database.passwords == (SecretStr("first"),)
    assert counted("applied") == count + 1
    line = logs.one("config_reloaded")
    assert "database.password" in line["settings"]
    assert line["config_hash"] == config_hash(live.current) != config_hash(before)
    assert "newer" not in logs.text
    assert await reload(live) == set()


async def test_what_may_not_change_waits_for_a_restart_and_is_named_once(
    installation: Installation, live: Live[Settings], logs: CapturedLogs
) -> None:
    installation.configure("http: {port: 8001}\nlog: {level: WARNING}")
    assert await reload(live) == {"applied", "restart_needed"}
    assert (live.current.http.port, live.current.log.level) == (8000, "WARNING")
    line = logs.one("config_restart_needed")
    assert (line["level"], line["settings"]) == ("warning", ["http.port"])
    assert await reload(live) == set()


@pytest.mark.parametrize(
    "text",
    ["log: {level: LOUD}", "lgo: {level: DEBUG}", "log: {level: DEBUG\n", "database: {lock_timeout: 9}", "\x00"],
)
async def test_files_that_are_not_valid_are_rejected_whole_and_the_last_good_settings_stay(
    installation: Installation, live: Live[Settings], logs: CapturedLogs, text: str
) -> None:
    before, count = live.current, counted("rejected")
    installation.secrets.write(database__password="never-taken")
    installation.configure(f"rate_limit: {{burst: 7}}\n{text}")
    assert await reload(live) == {"rejected"}
    assert live.current is before
    assert counted("rejected") == count + 1
    line = logs.one("config_reload_rejected")
    assert line["level"] == "warning"
    assert line["problems"]
    assert "never-taken" not in logs.text
    installation.configure("rate_limit: {burst: 7}")
    assert await reload(live) == {"applied"}
    assert live.current.rate_limit.burst == 7


async def test_a_secret_that_is_taken_away_is_rejected(installation: Installation, live: Live[Settings]) -> None:
    installation.secrets.write(database__password=None)
    assert await reload(live) == {"rejected"}
    assert live.current.database.password == SecretStr("first")


async def test_files_that_say_the_same_in_other_words_change_nothing(
    installation: Installation, live: Live[Settings]
) -> None:
    before = live.current
    installation.configure("log: {level: INFO}  # which is the default")
    assert await reload(live) == {"unchanged"}
    assert live.current is before


async def test_a_file_replaced_while_it_is_read_is_left_to_the_next_look(
    installation: Installation, live: Live[Settings]
) -> None:
    """Of two files that belong together one would be old and the other new."""
    installation.configure("rate_limit: {burst: 7}")
    torn: Live[Settings] = Live(live.current, read=lambda: _change_and_read(installation), digest=live.digest)
    assert await reload(torn) == set()
    assert torn.current is live.current
    assert await reload(live) == {"applied"}
    assert live.current.rate_limit.burst == 8


def _change_and_read(installation: Installation) -> Settings:
    found = load_live(Settings).current
    installation.configure("rate_limit: {burst: 8}")
    return found


async def test_a_mixture_that_breaks_a_rule_is_rejected_though_each_half_is_valid() -> None:
    """One side of the rule may change now and the other waits for a restart."""

    class Bound(ServiceSettings):
        service_name: ClassVar[str] = "bound"
        rules: ClassVar[tuple[Rule, ...]] = (Rule("rate_limit.burst", "≤", "rate_limit.local_keys", "for this test"),)

    def settings(burst: int, local_keys: int) -> Bound:
        database = {"name": "shop", "user": "shop", "password": "x"}
        return Bound.model_validate({"database": database, "rate_limit": {"burst": burst, "local_keys": local_keys}})

    live = Live(settings(5, 10), read=lambda: settings(50, 100), digest="of other files")
    with captured_logs() as logs:
        assert await reload(live) == {"rejected"}
    assert live.current == settings(5, 10)
    assert "for this test" in str(logs.one("config_reload_rejected")["problems"])


async def test_the_files_are_looked_at_every_interval_and_in_any_way_of_writing_them(
    installation: Installation, live: Live[Settings], tmp_path: Path
) -> None:
    ticks: asyncio.Queue[float] = asyncio.Queue()
    looked = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        looked.release()
        assert seconds == live.current.reload.interval
        await ticks.get()

    async def look() -> None:
        await ticks.put(0)
        await looked.acquire()

    async with reloading(live, sleep=sleep):
        await looked.acquire()
        for number, write in enumerate((_in_place, _by_renaming, _by_swapping), start=1):
            write(installation, tmp_path, f"log: {{level: DEBUG}}\nrate_limit: {{burst: {number}}}")
            await look()
            assert live.current.rate_limit.burst == number


REQUIRED = "database: {name: shop, user: shop_app}\nsupplier: {base_url: 'http://supplier'}\n"


def _in_place(_installation: Installation, folder: Path, text: str) -> None:
    (folder / "config" / "config.yaml").write_text(REQUIRED + text)


def _by_renaming(_installation: Installation, folder: Path, text: str) -> None:
    draft = folder / "draft.yaml"
    draft.write_text(REQUIRED + text)
    draft.replace(folder / "config" / "config.yaml")


def _by_swapping(installation: Installation, _folder: Path, text: str) -> None:
    Path(os.environ["HOLDFAST_SERVICE_FILE"]).unlink()
    installation.configure(text)


async def test_whoever_cannot_follow_a_change_does_not_end_the_looking(
    installation: Installation, live: Live[Settings], logs: CapturedLogs
) -> None:
    told: list[int] = []

    def follow(settings: Settings) -> None:
        told.append(settings.rate_limit.burst)
        if settings.rate_limit.burst == 1:
            raise RuntimeError("broken on purpose")

    live.watch(follow)
    async with reloading(live, sleep=lambda _: asyncio.sleep(0)):
        installation.configure("rate_limit: {burst: 1}")
        await eventually(lambda: _is(told[-1] == 1))
        installation.configure("rate_limit: {burst: 2}")
        await eventually(lambda: _is(told[-1] == 2))
    line = logs.one("background_task_failed")
    assert (line["level"], line["task"]) == ("error", "reloading")


async def _is(condition: bool) -> bool:  # noqa: FBT001
    return condition


@pytest.fixture
async def identified(live: Live[Settings]) -> AsyncIterator[dict[str, str]]:
    with captured_logs(), identify(live, version="1", role="api") as info:
        yield info  # type: ignore[misc]


async def test_the_hash_and_the_level_of_the_process_follow(
    installation: Installation, live: Live[Settings], identified: dict[str, str]
) -> None:
    before = identified["config_hash"]
    installation.configure("log: {level: ERROR}")
    await reload(live)
    assert identified["config_hash"] == config_hash(live.current) != before
    assert REGISTRY.get_sample_value("config_info", {"hash": live.hash}) == 1
    assert REGISTRY.get_sample_value("config_info", {"hash": before}) is None
    assert levels().base == "ERROR"


def test_the_allow_list_is_what_the_models_mark() -> None:
    """A setting that nobody reads anew must not be here: it would be called applied without being so."""
    assert allow_list(Settings) == {
        "log.level",
        "management.token",
        "management.hosts",
        "database.password",
        "database.next_password",
        *(f"database.budget.{setting}" for setting in BudgetSettings.model_fields),
        "http.max_concurrent_requests",
        "http.default_share",
        "http.sheddable_share",
        "auth.peppers",
        "auth.key_refresh",
        "auth.key_grace",
        "auth.service_secrets",
        "auth.service_scopes",
        "rate_limit.clients",
        "rate_limit.edges",
        "rate_limit.rate_per_second",
        "rate_limit.burst",
        "rate_limit.tiers",
        "rate_limit.tier_of",
        "rate_limit.dark_launch",
        "rate_limit.replicas",
        "rate_limit.redis_pause",
        *(
            f"rate_limit.{policy}.{setting}"
            for policy in ("unauthenticated", "bad_credentials")
            for setting in ("rate_per_second", "burst", "dark_launch")
        ),
    }


def test_taking_over_touches_nothing_beside_the_allow_list(live: Live[Settings]) -> None:
    found = live.current.model_copy(update={"redis": RedisSettings(host="elsewhere"), "environment": "prod"})
    assert take_over(live.current, found) == live.current


@pytest.mark.parametrize("login", ["user: other_app", "user: shop_app, host: elsewhere", "user: shop_app, port: 6432"])
async def test_a_password_that_comes_with_another_login_waits_for_the_restart_with_it(
    installation: Installation, live: Live[Settings], logs: CapturedLogs, login: str
) -> None:
    installation.config.write(
        **{"config.yaml": f"database: {{name: shop, {login}}}\nsupplier: {{base_url: 'http://supplier'}}\n"}
    )
    installation.secrets.write(database__password="other", log__level="ERROR")
    assert await reload(live) == {"applied", "restart_needed"}
    assert (live.current.database.password.get_secret_value(), live.current.log.level) == ("first", "ERROR")
    assert "database.password" in logs.one("config_restart_needed")["settings"]
