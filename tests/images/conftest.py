"""Every image, built from the tree, and what a service needs to run: `make test-images`.

These tests need a Docker engine and take minutes: they run only when they are named, and are skipped without an engine.
Containers use the host's network, to reach a PostgreSQL and a Valkey of the bare machine; what they are given is what
infra/compose.yaml gives.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import engine
import pytest
from engine import HARDENED, ROOT, Image, docker
from holdfast_local.compose_secrets import make_secrets
from holdfast_local.databases import create_database
from holdfast_local.placement import passable_folder
from holdfast_local.ports import free_port
from holdfast_local.postgres import EmbeddedPostgres
from holdfast_local.secrets import SERVICES, load_or_create
from holdfast_local.valkey import EmbeddedValkey

FOLDER = Path(__file__).parent
FIGURES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first build fetches every package."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.timeout(600))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.section("measured")
    for line in config.stash[FIGURES]:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> list[str]:
    """Lines to show at the end."""
    return pytestconfig.stash[FIGURES]


@pytest.fixture(scope="session", autouse=True)
async def _engine() -> None:
    if not await engine.answers():
        pytest.skip("no Docker engine answers")


@pytest.fixture(scope="session")
async def images(_engine: None) -> AsyncIterator[dict[str, Image]]:
    """The production image of each service, and the tools."""
    built = {what: await Image.build(what) for what in [*SERVICES, "tools"]}
    yield built
    await docker("image", "rm", "--no-prune", *[image.name for image in built.values()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Servers on this machine, and what containers are given to use them."""

    secrets: Path
    postgres_port: int
    valkey_port: int

    def options(self, service: str, *, secrets: str, management_port: int) -> list[str]:
        """Of `docker run`."""
        mounted = {
            "/etc/holdfast/common/config.yaml": ROOT / "infra" / "compose" / "common.yaml",
            "/etc/holdfast/service/config.yaml": ROOT / "infra" / "compose" / f"{service}.yaml",
            "/run/secrets/holdfast": self.secrets / secrets,
        }
        settings = {
            "DATABASE__HOST": "127.0.0.1",
            "DATABASE__PORT": self.postgres_port,
            "REDIS__HOST": "127.0.0.1",
            "REDIS__PORT": self.valkey_port,
            "HTTP__HOST": "127.0.0.1",
            "HTTP__PORT": free_port(),
            "MANAGEMENT__HOST": "127.0.0.1",
            "MANAGEMENT__PORT": management_port,
        }
        mounts = [f"--volume={source}:{target}:ro" for target, source in mounted.items()]
        return ["--network=host", *mounts, *[f"--env=HOLDFAST_{name}={value}" for name, value in settings.items()]]


@pytest.fixture(scope="session")
async def site(images: dict[str, Image]) -> AsyncIterator[Site]:
    """With every service's database migrated, by its image."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(passable_folder(prefix="holdfast-images-"))
        made = load_or_create(folder / "secrets")
        make_secrets(folder / "secrets")
        postgres = EmbeddedPostgres(
            folder / "postgres", port=free_port(), password=made.postgres_password, durable=False
        )
        await stack.enter_async_context(postgres)
        stack.callback(postgres.remove)
        valkey = EmbeddedValkey(folder / "valkey", port=free_port(), password=made.valkey_password)
        await stack.enter_async_context(valkey)
        site = Site(secrets=made.folder, postgres_port=postgres.port, valkey_port=valkey.port)
        for service in SERVICES:
            name = service.replace("-", "_")
            await create_database(
                postgres.dsn,
                name=name,
                owner=(f"{name}_owner", made.owner_passwords[service]),
                runtime=(f"{name}_app", made.runtime_passwords[service]),
            )
            options = site.options(service, secrets=f"{service}-migrate", management_port=free_port())
            await docker("run", "--rm", *HARDENED, *options, images[service].name, "migrate")
        yield site
