"""A real platform for each file of tests, in a hurry (`chaos_settings`), and what the tests do with it.

These tests take minutes: they run only when they are named, as `make test-faults` does.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from holdfast_local.chaos_client import open_patient_client
from holdfast_local.chaos_settings import HURRIED, passing_settings
from holdfast_local.platform import running_platform
from holdfast_local.supervisor import Event

from stage import Stage
from severing_proxy import SeveringProxy

FOLDER = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Not collected unless this folder, or something in it, is named on the command line."""
    named = [Path(argument.partition("::")[0]).absolute() for argument in config.args]
    return None if any(path.is_relative_to(FOLDER) for path in named) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starting a platform takes ten seconds, an outage and its end as many."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(scope="module")
async def _staged() -> AsyncIterator[Stage]:
    with passing_settings() as settings:
        # Between the API of orders and its database, for tests that cut a connection at a chosen moment.
        proxy = SeveringProxy(target_port=settings.port("postgres"))
        async with proxy.listening() as port:
            own = {**HURRIED["orders-api"], "database.port": port}
            overrides = {**HURRIED, "orders-api": own}
            events: list[Event] = []
            async with (
                running_platform(settings, overrides=overrides, on_event=events.append) as platform,
                open_patient_client(platform.installation) as client,
            ):
                yield Stage(platform=platform, client=client, proxy=proxy, events=events)


@pytest.fixture
async def stage(_staged: Stage) -> AsyncIterator[Stage]:
    """The platform without faults, and afterwards again: a test that failed half-way does not fail the next."""
    _staged.begin()
    yield _staged
    await _staged.heal()
