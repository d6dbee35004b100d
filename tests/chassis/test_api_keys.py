"""A key is known by heart: no request asks the database, a revoked one ends with a look, an outage is outlived."""

import asyncio
import getpass
import hmac
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import asyncpg
import pytest
from api_keys import CALLERS, PEPPER, key_of
from backends import FreshDatabase, RealServer
from captured_logs import captured_logs
from chassis.app.cli.operator import list_lines
from chassis.auth import api_keys, key_administration
from chassis.auth.api_keys import ApiKeys, new_key, peppers_of, prefix_of
from chassis.auth.key_administration import ListedKey, add_key, list_keys, register_key, revoke_key
from chassis.config.settings import AuthSettings, DatabaseSettings, RedisSettings
from chassis.errors import ApiError, ErrorCode, HoldfastError
from chassis.logging import redact
from chassis.pooling import Database
from prometheus_client import REGISTRY
from pydantic import SecretStr
from service_process import Ended, OrdersInstallation
from waiting import eventually

NEW_PEPPER = "n" * 64
OLD = AuthSettings(peppers=(SecretStr(PEPPER),), key_refresh=1, key_grace=60)
BOTH = OLD.model_copy(update={"peppers": (SecretStr(NEW_PEPPER), SecretStr(PEPPER))})
NEW = OLD.model_copy(update={"peppers": (SecretStr(NEW_PEPPER),)})
KEY = key_of("umbrella")


@pytest.fixture
async def owner(database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    database = Database(database_settings.as_owner(), pool="owner", application_name="test")
    yield database
    await database.close()


async def register(
    owner: Database, key: str = KEY, *, settings: AuthSettings = OLD, principal: str = "umbrella"
) -> str:
    async with owner.transaction() as session:
        return await register_key(session, key, principal=principal, scopes=["shop:read"], peppers=peppers_of(settings))


async def revoke(owner: Database, key: str = KEY) -> None:
    async with owner.transaction() as session:
        assert await revoke_key(session, prefix_of(key))


def test_a_key_has_the_form_that_scanners_know_and_is_never_made_twice() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"hf_[a-z0-9]{12}_[A-Za-z0-9]{43}", key) for key in keys)


def test_a_line_keeps_a_key_s_prefix_and_nothing_else_of_it() -> None:
    key = new_key()
    shown = redact(f"who has {key}?")
    assert shown == f"who has {key[:16]}[redacted]?"


async def test_a_request_asks_nobody(database: Database, owner: Database) -> None:
    keys = ApiKeys(database, lambda: OLD)
    await register(owner)
    await keys.refresh()
    await database.close()
    found = keys.find(KEY)
    assert found is not None
    assert (found.principal, found.scopes) == ("umbrella", {"shop:read"})
    assert keys.find(key_of("nobody")) is None
    assert keys.find(f"{KEY[:16]}{'0' * 43}") is None


async def test_a_revoked_key_ends_with_the_next_look_and_the_log_says_so(database: Database, owner: Database) -> None:
    keys = ApiKeys(database, lambda: OLD)
    await keys.refresh()
    await register(owner)
    with captured_logs() as logs:
        await keys.refresh()
        assert keys.find(KEY)
        await revoke(owner)
        assert keys.find(KEY)
        await keys.refresh()
    assert keys.find(KEY) is None
    added, removed = logs.of("api_key_added") + logs.of("api_key_removed")
    assert (added["prefix"], added["principal"]) == (removed["prefix"], removed["principal"]) == (KEY[3:15], "umbrella")
    assert KEY[16:] not in logs.text


class Compared:
    """`hmac` that remembers what it compared."""

    new = staticmethod(hmac.new)

    def __init__(self) -> None:
        self.lengths: list[tuple[int, int]] = []

    def compare_digest(self, given: bytes, kept: bytes) -> bool:
        self.lengths.append((len(given), len(kept)))
        return hmac.compare_digest(given, kept)


async def test_whatever_is_shown_costs_one_comparison_in_constant_time_of_two_hashes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ApiKeys(database, lambda: OLD)
    await keys.refresh()
    compared = Compared()
    monkeypatch.setattr(api_keys, "hmac", compared)
    valid = key_of("acme")
    shown = [valid, f"{valid[:-1]}x", f"{valid[:16]}{'0' * 43}", key_of("nobody"), "hf_", ""]
    assert [keys.find(key) is not None for key in shown] == [True, False, False, False, False, False]
    assert compared.lengths == [(32, 32)] * len(shown)


async def test_a_key_ends_when_it_expires_between_two_looks(database: Database, owner: Database) -> None:
    now = 0.0
    keys = ApiKeys(database, lambda: OLD, now=lambda: now)
    key = new_key()
    async with owner.transaction() as session:
        await add_key(session, key, principal="umbrella", scopes=["a:b"], peppers=peppers_of(OLD), days=1)
    await keys.refresh()
    found = keys.find(key)
    assert found is not None
    now = found.expires - 1
    assert keys.find(key)
    now = found.expires
    assert keys.find(key) is None


async def test_an_expired_key_is_not_even_read(database: Database, owner: Database) -> None:
    key = new_key()
    async with owner.transaction() as session:
        await add_key(session, key, principal="umbrella", scopes=["a:b"], peppers=peppers_of(OLD), days=-1)
    keys = ApiKeys(database, lambda: OLD, now=lambda: 0.0)  # by this clock it would be valid
    await keys.refresh()
    assert keys.find(key) is None


async def test_a_service_has_a_largest_number_of_keys(owner: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_administration, "MAX_KEYS", len(CALLERS) + 1)
    await register(owner)
    with pytest.raises(HoldfastError, match="revoke some"):
        await register(owner, key_of("initech"), principal="initech")
    await revoke(owner)
    await register(owner, key_of("initech"), principal="initech")  # whose place that was


async def test_a_key_that_is_revoked_again_was_revoked_when_it_was_first(owner: Database) -> None:
    await register(owner)
    await revoke(owner)
    (first,) = [key.revoked_at for key in await listed(owner) if key.principal == "umbrella"]
    await revoke(owner)
    assert first
    assert [key.revoked_at for key in await listed(owner) if key.principal == "umbrella"] == [first]


async def listed(owner: Database) -> list[ListedKey]:
    async with owner.read() as session:
        return await list_keys(session)


async def test_a_look_that_fails_in_a_way_that_nobody_knew_is_not_the_last(database: Database, owner: Database) -> None:
    turns: asyncio.Queue[None] = asyncio.Queue()
    keys = ApiKeys(database, lambda: OLD, sleep=lambda _: turns.get())
    with captured_logs() as logs:
        async with keys.refreshing():
            keys._database = object()  # type: ignore[assignment]
            turns.put_nowait(None)

            async def has_failed() -> bool:
                return bool(logs.of("background_task_failed"))

            await eventually(has_failed)
            keys._database = database
            await register(owner)
            turns.put_nowait(None)

            async def is_known() -> bool:
                return keys.find(KEY) is not None

            await eventually(is_known)


async def test_known_keys_outlive_the_database_for_the_grace_and_then_nobody_is_guessed_at(
    database: Database, database_settings: DatabaseSettings
) -> None:
    clock = 0.0
    keys = ApiKeys(database, lambda: OLD, clock=lambda: clock)
    await keys.refresh()
    await database.close()
    keys._database = unreachable()
    clock = 59.0
    with captured_logs() as logs:
        await keys.refresh()
        await keys.refresh()
    assert len(logs.of("api_keys_not_read")) == 1
    assert keys.find(key_of("acme"))
    assert REGISTRY.get_sample_value("api_keys_age_seconds") == 59
    clock = 61.0
    for key in (key_of("acme"), key_of("nobody")):
        with pytest.raises(ApiError) as refused:
            keys.find(key)
        assert refused.value.code is ErrorCode.DEPENDENCY_UNAVAILABLE
    async with another(database_settings) as keys._database:
        with captured_logs() as logs:
            await keys.refresh()
            await keys.refresh()
    assert len(logs.of("api_keys_read_again")) == 1
    assert keys.find(key_of("acme"))


@asynccontextmanager
async def another(settings: DatabaseSettings) -> AsyncIterator[Database]:
    database = Database(settings, pool="another", application_name="test")
    yield database
    await database.close()


def unreachable() -> Database:
    settings = DatabaseSettings(host="127.0.0.1", port=9, name="none", user="none", password=SecretStr("none"))
    return Database(settings, pool="test", application_name="test")


async def test_the_pepper_is_replaced_one_key_at_a_time(database: Database, owner: Database) -> None:
    current = OLD
    keys = ApiKeys(database, lambda: current)
    assert await register(owner) == "added"
    assert await register(owner) == "unchanged"
    for settings in (OLD, BOTH):
        current = settings
        await keys.refresh()
        assert keys.find(KEY)
    assert await register(owner, settings=BOTH) == "brought up to date"
    current = NEW
    await keys.refresh()
    assert keys.find(KEY)
    assert keys.find(key_of("acme")) is None  # whose key nobody brought up to date


async def test_registering_changes_neither_a_revoked_key_nor_another_s(owner: Database) -> None:
    await register(owner)
    with pytest.raises(HoldfastError, match="is that of umbrella's key"):
        await register(owner, principal="acme")
    with pytest.raises(HoldfastError, match="is that of umbrella's key"):
        await register(owner, f"{KEY[:16]}{'0' * 43}")
    await revoke(owner)
    assert await register(owner) == "revoked, and left so"


async def test_the_role_of_run_time_reads_keys_and_can_make_none(database: Database) -> None:
    async with database.read() as session:
        assert {key.principal for key in await list_keys(session)} == set(CALLERS)
    for change in (register_key, add_key):
        with pytest.raises(Exception, match="permission denied for table api_key"):
            async with database.transaction() as session:
                await change(session, KEY, principal="x", scopes=["a:b"], peppers=peppers_of(OLD))  # type: ignore[operator]
    with pytest.raises(Exception, match="permission denied for table api_key"):
        async with database.transaction() as session:
            await revoke_key(session, prefix_of(key_of("acme")))


async def test_of_all_that_may_be_done_to_the_table_the_role_of_run_time_may_read_it(
    postgres: RealServer, database_settings: DatabaseSettings
) -> None:
    connection = await asyncpg.connect(postgres.dsn, database=database_settings.name)
    rows = await connection.fetch(
        "SELECT right_ FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER',"
        " 'MAINTAIN']) AS right_ WHERE has_table_privilege($1, 'api_key', right_)",
        database_settings.user,
    )
    await connection.close()
    assert [row["right_"] for row in rows] == ["SELECT"]


async def test_the_table_holds_no_key(
    postgres: RealServer, owner: Database, database_settings: DatabaseSettings
) -> None:
    await register(owner)
    connection = await asyncpg.connect(postgres.dsn, database=database_settings.name)
    rows = await connection.fetch("SELECT k::text AS row FROM api_key AS k")
    await connection.close()
    assert len(rows) == len(CALLERS) + 1
    assert not [row for row in rows if KEY[16:] in row["row"]]


# The command


@pytest.fixture
async def operator(tmp_path: Path, fresh_database: FreshDatabase, redis_settings: RedisSettings) -> OrdersInstallation:
    database = await fresh_database("orders")
    assert database.migration_user
    assert database.migration_password
    installation = OrdersInstallation.create(tmp_path, database, redis_settings)
    installation.set("database__migration_user", database.migration_user)
    installation.secret("database__migration_password", database.migration_password.get_secret_value())
    return installation


async def test_the_command_prints_a_new_key_once_lists_it_without_its_secret_and_revokes_it(
    operator: OrdersInstallation,
) -> None:
    made = await operator.run("api-keys", "create", "umbrella", "--scope", "orders:read", "--expires-in-days", "30")
    key = made.stdout.removesuffix("\n")
    assert made.code == 0
    assert key[16:] not in made.stderr
    assert_audited(made, "api_key_created", prefix=prefix_of(key), principal="umbrella", scopes=["orders:read"])
    (line,) = [line for line in (await operator.run("api-keys", "list")).stdout.splitlines() if "umbrella" in line]
    assert line.startswith(f"{prefix_of(key)}  umbrella  orders:read  made ")
    assert key[16:] not in line
    revoked = await operator.run("api-keys", "revoke", prefix_of(key))
    assert_audited(revoked, "api_key_revoked", prefix=prefix_of(key), principal="umbrella")
    assert "revoked" in next(
        line for line in (await operator.run("api-keys", "list")).stdout.splitlines() if prefix_of(key) in line
    )
    unknown = await operator.run("api-keys", "revoke", "000000000000")
    assert (unknown.code, unknown.stderr) == (1, "there is no key 000000000000\n")


def test_a_list_of_no_keys_says_so_beside_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    list_lines([], what="keys")
    assert capsys.readouterr() == ("", "there are no keys\n")


def assert_audited(ended: Ended, event: str, **fields: object) -> None:
    """It has ended well, and has said who changed what and when."""
    line = json.loads(ended.stderr)
    assert (ended.code, line["event"], line["by"]) == (0, event, getpass.getuser())
    assert datetime.fromisoformat(line["at"])
    assert line.items() >= fields.items()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "umbrella", "--scope", "orders:wirte"), "orders has no scope orders:wirte; there are: orders:read"),
        (("create", "Umbrella Corp", "--scope", "orders:read"), "is not a valid principal"),
        (("register", "nowhere", "--scope", "orders:read"), "nowhere: the keys cannot be read"),
    ],
)
async def test_the_command_names_what_is_wrong_and_makes_nothing(
    operator: OrdersInstallation, arguments: tuple[str, ...], said: str
) -> None:
    ended = await operator.run("api-keys", *arguments)
    assert (ended.code, ended.stdout) == (1, "")
    assert said in ended.stderr


async def test_what_is_no_key_is_not_registered_and_not_repeated(operator: OrdersInstallation) -> None:
    (operator.folder / "clients").mkdir()
    (operator.folder / "clients" / "umbrella").write_text("correct horse battery staple")
    ended = await operator.run("api-keys", "register", "clients", "--scope", "orders:read")
    assert ended.code == 1
    assert ended.stderr.startswith("clients/umbrella: this is not an API key")
    assert "horse" not in ended.stderr
