import asyncio
import re
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from backends import RealServer
from chassis.config.settings import DatabaseSettings
from chassis.errors import ConfigurationError
from chassis.migrations import upgrade
from chassis.pooling import Database
from holdfast_local.databases import create_database
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

_SERVICE_REVISION = """
from alembic import op

revision = "shop_0001"
down_revision = None
branch_labels = ("shop",)
depends_on = "chassis_0001"


def upgrade() -> None:
    op.execute("CREATE TABLE shop_order (id bigint PRIMARY KEY, job_id bigint REFERENCES job)")
"""


@pytest.fixture
async def new_database(postgres: RealServer, database_settings: DatabaseSettings) -> DatabaseSettings:
    """A database without a table; its roles are its own."""
    name = f"new_{uuid4().hex}"
    await create_database(postgres.dsn, name=name, owner=("shop_owner", "o"), runtime=("shop_app", "r"))
    logins = {"user": "shop_app", "password": SecretStr("r"), "migration_user": "shop_owner"}
    return database_settings.model_copy(update={"name": name, **logins, "migration_password": SecretStr("o")})


@pytest.fixture
def service_migrations(tmp_path: Path) -> Path:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "0001_shop.py").write_text(_SERVICE_REVISION)
    return tmp_path


async def revisions(settings: DatabaseSettings) -> set[str]:
    database = Database(settings, pool="migrated", application_name="test")
    async with database.read() as session:
        found = set(await session.scalars(text("SELECT version_num FROM alembic_version")))
    await database.close()
    return found


async def test_a_service_migrates_after_the_chassis_and_again_without_effect(
    new_database: DatabaseSettings, service_migrations: Path
) -> None:
    await upgrade(new_database, service_migrations)
    await upgrade(new_database, service_migrations)
    assert "shop_0001" in await revisions(new_database)


async def test_two_migrations_at_once_wait_for_one_another(
    new_database: DatabaseSettings, service_migrations: Path
) -> None:
    await asyncio.gather(*(upgrade(new_database, service_migrations) for _ in range(3)))
    assert "shop_0001" in await revisions(new_database)


async def test_the_role_of_run_time_cannot_change_the_schema(database: Database) -> None:
    async with database.read() as session:
        with pytest.raises(ProgrammingError, match="must be owner of table job"):
            await session.execute(text("ALTER TABLE job ADD COLUMN extra text"))


async def test_without_the_owners_login_nothing_is_migrated(database_settings: DatabaseSettings) -> None:
    with pytest.raises(ConfigurationError, match="HOLDFAST_DATABASE__MIGRATION_PASSWORD"):
        await upgrade(database_settings.model_copy(update={"migration_password": None}))


async def test_a_failing_revision_leaves_nothing_behind(
    new_database: DatabaseSettings, service_migrations: Path
) -> None:
    revision = service_migrations / "versions" / "0001_shop.py"
    revision.write_text(_SERVICE_REVISION + '    op.execute("SELECT 1 / 0")\n')
    with pytest.raises(Exception, match="division by zero"):
        await upgrade(new_database, service_migrations)
    assert await revisions(new_database) <= {"chassis_0001", "chassis_0002", "chassis_0003", "chassis_0004"}
    owner = await asyncpg.connect(
        host=new_database.host,
        port=new_database.port,
        database=new_database.name,
        user="shop_owner",
        password="o",
    )
    assert await owner.fetchval("SELECT to_regclass('shop_order')") is None
    await owner.close()


@pytest.mark.parametrize("package", ["chassis", "orders", "payments", "notifications", "webhook_ingest"])
def test_revisions_stand_in_a_row(package: str) -> None:
    """Two of one number, or after the same one: two people wrote them at once, and one of them would never run."""
    folder = Path(str(import_module(package).__file__)).parent / "migrations" / "versions"
    sources = [path.read_text() for path in folder.glob("*.py")]
    follows = dict(re.findall(r'^revision = "(\w+)"\ndown_revision = (.*)$', "\n".join(sources), re.MULTILINE))
    assert len(follows) == len(sources)
    assert len(set(follows.values())) == len(sources)
