"""The bare-machine runner's PostgreSQL and Valkey: who may connect, as whom they run, what they leave."""

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from holdfast_local import placement
from holdfast_local.databases import create_database
from holdfast_local.errors import RunnerError
from holdfast_local.placement import outside_folder
from holdfast_local.ports import free_port
from holdfast_local.postgres import ENVIRONMENT, EmbeddedPostgres, temporary_postgres
from holdfast_local.valkey import EmbeddedValkey, temporary_valkey

OWNER, RUNTIME = ("shop_owner", "owner-password"), ("shop_app", "app-password")
is_root = os.geteuid() == 0


@pytest.fixture(scope="module")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    async with temporary_postgres() as server:
        await create_database(server.dsn, name="shop", owner=OWNER, runtime=RUNTIME)
        yield server


async def connect(server: EmbeddedPostgres, login: tuple[str, str], database: str = "shop") -> asyncpg.Connection:
    return await asyncpg.connect(f"postgresql://{login[0]}:{login[1]}@127.0.0.1:{server.port}/{database}")


async def test_every_way_in_needs_scram(postgres):
    admin = await asyncpg.connect(postgres.dsn)
    rules = await admin.fetch("SELECT type, auth_method FROM pg_hba_file_rules")
    await admin.close()
    assert {rule["auth_method"] for rule in rules} == {"scram-sha-256"}
    assert "local" in {rule["type"] for rule in rules}


async def test_a_wrong_password_is_refused(postgres):
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connect(postgres, (RUNTIME[0], "guess"))


async def shown(postgres: EmbeddedPostgres, setting: str) -> str:
    connection = await asyncpg.connect(postgres.dsn)
    try:
        return await connection.fetchval("SELECT current_setting($1)", setting)
    finally:
        await connection.close()


async def test_the_server_listens_on_loopback_and_on_no_socket(postgres):
    # All of the machine's: in a container not even root may ask for those of another user's process.
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.laddr.port == postgres.port and not c.raddr}
    assert listening == {"127.0.0.1"}
    assert await shown(postgres, "unix_socket_directories") == ""


async def test_no_password_is_in_the_process_list(postgres):
    password = postgres.dsn.split(":")[2].split("@")[0]
    assert password not in " ".join(psutil.Process(postgres.pid).cmdline())
    assert password not in " ".join(map(str, [*postgres.command(), *ENVIRONMENT.values()]))


async def test_a_server_that_logs_every_statement_never_sees_a_password(postgres):
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute("ALTER SYSTEM SET log_statement = 'all'")
    await admin.execute("SELECT pg_reload_conf()")
    await create_database(postgres.dsn, name="shop", owner=OWNER, runtime=RUNTIME)
    await admin.execute("ALTER SYSTEM RESET log_statement")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    written = postgres.log.read_text()
    assert "ALTER ROLE" in written
    assert OWNER[1] not in written


async def test_the_data_folder_is_the_servers_alone(postgres):
    for folder in (postgres.location.folder, postgres.location.data):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert psutil.Process(postgres.pid).uids().real == postgres.location.data.stat().st_uid != 0


async def test_the_runtime_role_reads_and_writes_what_the_owner_makes_and_changes_no_schema(postgres):
    owner, runtime = await connect(postgres, OWNER), await connect(postgres, RUNTIME)
    try:
        await owner.execute(
            "CREATE TABLE thing (id bigint GENERATED ALWAYS AS IDENTITY, name text); CREATE SEQUENCE counter"
        )
        await runtime.execute(
            "INSERT INTO thing (name) VALUES ('a'); UPDATE thing SET name = 'b'; SELECT nextval('counter')"
        )
        await runtime.execute("DELETE FROM thing")
        for statement in (
            "CREATE TABLE other (id int)",
            "CREATE TEMPORARY TABLE other (id int)",
            "CREATE SCHEMA other",
            "ALTER TABLE thing ADD COLUMN extra int",
            "DROP TABLE thing",
            "TRUNCATE thing",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await runtime.execute(statement)
    finally:
        await owner.close()
        await runtime.close()


async def test_the_role_of_another_service_cannot_connect(postgres):
    await create_database(postgres.dsn, name="other", owner=("other_owner", "x"), runtime=("other_app", "y"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
        await connect(postgres, ("other_app", "y"), "shop")


async def test_creating_a_database_again_takes_over_new_passwords(postgres):
    for password in ("first", "second"):
        await create_database(postgres.dsn, name="again", owner=("again_owner", "x"), runtime=("again_app", password))
        await (await connect(postgres, ("again_app", password), "again")).close()


async def test_a_name_that_is_no_plain_identifier_is_refused(postgres):
    with pytest.raises(ValueError, match="not a plain PostgreSQL name"):
        await create_database(postgres.dsn, name='shop"; DROP DATABASE shop', owner=OWNER, runtime=RUNTIME)


async def test_an_administrator_without_superuser_rights_can_create_databases(postgres):
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute("CREATE ROLE clerk LOGIN CREATEDB CREATEROLE PASSWORD 'clerk-password'")
    await admin.close()
    dsn = f"postgresql://clerk:clerk-password@127.0.0.1:{postgres.port}/postgres"
    for _ in range(2):
        await create_database(dsn, name="clerks", owner=("clerks_owner", "x"), runtime=("clerks_app", "y"))
    runtime = await connect(postgres, ("clerks_app", "y"), "clerks")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await runtime.execute("CREATE TABLE other (id int)")
    await runtime.close()


async def test_data_survives_a_stop_and_another_password_is_named_as_the_cause():
    with placement.passable_folder(prefix="holdfast-test-") as folder:
        password = secrets.token_hex(8)
        server = EmbeddedPostgres(folder / "postgres", port=free_port(), password=password, durable=False)
        async with server:
            admin = await asyncpg.connect(server.dsn)
            await admin.execute("CREATE TABLE kept ()")
            await admin.close()
        async with server:
            admin = await asyncpg.connect(server.dsn)
            assert await admin.fetchval("SELECT to_regclass('kept')") == "kept"
            await admin.close()
        stranger = EmbeddedPostgres(folder / "postgres", port=free_port(), password="other", durable=False)
        with pytest.raises(RunnerError, match="initialised with another password"):
            await stranger.start()
        assert stranger.pid is None
        server.remove()


@pytest.mark.skipif(not is_root, reason="only root needs another account for PostgreSQL")
async def test_a_folder_nobody_cannot_enter_is_replaced_outside_and_the_replacement_removed(tmp_path, monkeypatch):
    programs = placement._wheel_programs()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(placement, "_can_run", lambda *_: False)  # as in an environment below /root
    server = EmbeddedPostgres(closed / "postgres", port=free_port(), password="x", durable=False)
    outside = outside_folder(closed / "postgres")
    try:
        async with server:
            assert server.location.outside == outside
            assert (closed / "postgres" / "outside").read_text() == f"{outside}\n"
            assert psutil.Process(server.pid).exe().startswith(str(outside))
            assert stat.S_IMODE(outside.stat().st_mode) == 0o711
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert programs.exists()
    finally:
        server.remove()
    assert not outside.exists()
    assert not (closed / "postgres").exists()


@pytest.mark.skipif(not is_root, reason="only root needs another account for PostgreSQL")
def test_a_replacement_that_belongs_to_somebody_else_is_refused(tmp_path):
    outside = outside_folder(tmp_path)
    outside.mkdir()
    os.chown(outside, 65534, 65534)
    try:
        with pytest.raises(RunnerError, match="belongs to somebody else"):
            placement.remove_outside(outside)
    finally:
        outside.rmdir()


async def ask(server: EmbeddedValkey, *lines: str) -> list[str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write("".join(f"{line}\r\n" for line in lines).encode())
    answers = [(await reader.readline()).decode().strip() for _ in lines]
    writer.close()
    await writer.wait_closed()
    return answers


async def test_valkey_needs_its_password_which_only_its_owner_can_read():
    async with temporary_valkey() as server:
        assert (await ask(server, "PING"))[0].startswith("-NOAUTH")
        configuration = Path(psutil.Process(server.pid).cwd()) / "valkey.conf"
        assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
        password = server.dsn.removeprefix("redis://:").partition("@")[0]
        assert await ask(server, f"AUTH {password}", "PING") == ["+OK", "+PONG"]
        assert password not in " ".join(psutil.Process(server.pid).cmdline())


async def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path):
    async with temporary_valkey() as server:
        other = EmbeddedValkey(tmp_path, port=server.port, password="x")
        with pytest.raises(RunnerError, match=r"(?s)Valkey exited with 1.*in use"):
            await other.start()
