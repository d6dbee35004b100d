"""The set-up of databases in containers (charts/holdfast/files/create-databases.sh), run against a real PostgreSQL."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from holdfast_local.databases import create_database
from holdfast_local.postgres import EmbeddedPostgres, temporary_postgres

SCRIPT = Path(__file__).parents[2] / "charts" / "holdfast" / "files" / "create-databases.sh"
HARD_PASSWORD = 'it\'s "quoted" $HOME `id` \\ %s :owner'

type RunScript = Callable[..., Awaitable["Ended"]]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Ended:
    code: int
    output: str


@pytest.fixture(scope="module")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A server of its own: its psql and its log are looked at, which one in a container would keep to itself."""
    async with temporary_postgres() as server:
        yield server


@pytest.fixture
def name() -> str:
    """Of a database that no other test has used."""
    return f"made_by_script_{next(_numbers)}"


@pytest.fixture
def passwords(tmp_path: Path, name: str) -> Path:
    """The folder that the script is given, with both passwords of one database."""
    (tmp_path / f"{name}_owner").write_text(f"{HARD_PASSWORD}\n")
    (tmp_path / f"{name}_app").write_text("app")
    return tmp_path


@pytest.fixture
def run_script(postgres: EmbeddedPostgres, passwords: Path) -> RunScript:
    """Run the script as PostgreSQL's image does; any other `command` that runs it gets the same environment."""
    server = urlsplit(postgres.dsn)

    async def run(*command: str) -> Ended:
        environment = {
            "PATH": f"{postgres.location.programs}:{os.environ['PATH']}",
            "PGHOST": postgres.host,
            "PGPORT": str(postgres.port),
            "PGPASSWORD": server.password or "",
            "POSTGRES_USER": server.username or "",
            "HOLDFAST_PASSWORDS_DIR": str(passwords),
        }
        process = await asyncio.create_subprocess_exec(
            *(command or [str(SCRIPT)]),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return Ended(process.returncode, output.decode())

    return run


async def privileges(postgres: EmbeddedPostgres, name: str) -> list[object]:
    """Who may do what in the database, with its name left out."""
    server = urlsplit(postgres.dsn)
    connection = await asyncpg.connect(server._replace(path=f"/{name}").geturl())
    try:
        granted = await connection.fetch("""
            SELECT 'database', datacl::text FROM pg_database WHERE datname = current_database()
            UNION ALL SELECT 'schema ' || nspname, nspacl::text FROM pg_namespace WHERE nspname = 'public'
            UNION ALL SELECT 'later ' || defaclobjtype::text, defaclacl::text FROM pg_default_acl ORDER BY 1""")
    finally:
        await connection.close()
    return [(kind, acl.replace(name, "<name>")) for kind, acl in granted]


async def connect(postgres: EmbeddedPostgres, *, user: str, password: str, database: str) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=postgres.host, port=postgres.port, user=user, password=password, database=database
    )


async def test_roles_get_the_privileges_that_the_bare_machine_gives(
    postgres: EmbeddedPostgres, run_script: RunScript, name: str
) -> None:
    assert await run_script() == Ended(0, f"create-databases: {name}\n")
    other = f"{name}_bare"
    await create_database(postgres.dsn, name=other, owner=(f"{other}_owner", "x"), runtime=(f"{other}_app", "x"))
    assert await privileges(postgres, name) == await privileges(postgres, other)


async def test_owner_migrates_and_runtime_role_only_uses_rows(
    postgres: EmbeddedPostgres, run_script: RunScript, name: str
) -> None:
    await run_script()
    owner = await connect(postgres, user=f"{name}_owner", password=HARD_PASSWORD, database=name)
    await owner.execute("CREATE TABLE things (id int)")
    await owner.close()
    runtime = await connect(postgres, user=f"{name}_app", password="app", database=name)
    await runtime.execute("INSERT INTO things VALUES (1)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await runtime.execute("CREATE TABLE more (id int)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await runtime.execute("TRUNCATE things")
    await runtime.close()


async def test_running_it_again_sets_a_changed_password_and_keeps_the_rest(
    postgres: EmbeddedPostgres, run_script: RunScript, passwords: Path, name: str
) -> None:
    await run_script()
    before = await privileges(postgres, name)
    (passwords / f"{name}_app").write_text("replaced")
    assert (await run_script()).code == 0
    await (await connect(postgres, user=f"{name}_app", password="replaced", database=name)).close()
    assert await privileges(postgres, name) == before


async def test_read_into_another_shell_it_does_the_same_and_leaves_that_shell_alone(
    run_script: RunScript, name: str
) -> None:
    """So PostgreSQL's image runs a file without the executable bit, as a ConfigMap's usually is."""
    ended = await run_script("bash", "-Eeo", "pipefail", "-c", f'. {SCRIPT}; echo "after: ${{databases-unset}}"')
    assert ended == Ended(0, f"create-databases: {name}\nafter: unset\n")


@pytest.mark.parametrize("flaw", ["missing", "empty"])
async def test_without_all_passwords_nothing_is_created(
    postgres: EmbeddedPostgres, run_script: RunScript, passwords: Path, name: str, flaw: str
) -> None:
    first = "aaa"  # in order, before the one with the flaw
    for role in ("owner", "app"):
        (passwords / f"{first}_{role}").write_text("x")
    flawed = passwords / f"{name}_app"
    flawed.unlink() if flaw == "missing" else flawed.write_text("")
    assert await run_script() == Ended(1, f"create-databases: there is no password in {flawed}\n")
    assert first not in await databases(postgres)


async def test_an_empty_folder_and_an_odd_name_are_errors(run_script: RunScript, passwords: Path, name: str) -> None:
    for role in ("owner", "app"):
        (passwords / f"{name}_{role}").rename(passwords / f"odd-name_{role}")
    assert await run_script() == Ended(1, "create-databases: not a plain PostgreSQL name: odd-name\n")
    (passwords / "odd-name_owner").unlink()
    assert await run_script() == Ended(1, f"create-databases: there is no file <name>_owner in {passwords}\n")


async def test_a_failing_statement_shows_no_password(
    postgres: EmbeddedPostgres, run_script: RunScript, passwords: Path, name: str
) -> None:
    """PostgreSQL's log and psql's messages usually quote what failed."""
    secret, admin = "unrepeatable", f"{name}_admin"
    (passwords / f"{name}_owner").write_text(secret)
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"""
        CREATE ROLE {name}_owner; CREATE ROLE {name}_app; CREATE ROLE {admin} LOGIN SUPERUSER PASSWORD 'x';
        ALTER ROLE {admin} SET default_transaction_read_only = on""")
    await connection.close()
    ended = await run_script("env", f"POSTGRES_USER={admin}", "PGPASSWORD=x", str(SCRIPT))
    assert ended.code != 0
    assert "cannot execute ALTER ROLE in a read-only transaction" in ended.output
    assert secret not in ended.output
    assert secret not in postgres.log.read_text()


async def databases(postgres: EmbeddedPostgres) -> set[str]:
    connection = await asyncpg.connect(postgres.dsn)
    try:
        return {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
    finally:
        await connection.close()
