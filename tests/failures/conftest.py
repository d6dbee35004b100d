"""A real platform for each file of tests, in a hurry (`chaos_settings`), and what the tests do with it.

These tests take minutes: they run only when they are named, as `make test-faults` does.
"""

from collections.abc import AsyncIterator

import pytest
from holdfast_local.chaos_client import open_patient_client
from holdfast_local.chaos_settings import HURRIED, passing_settings
from holdfast_local.platform import running_platform
from holdfast_local.supervisor import Event
from holdfast_local.topology import Overrides
from severing_proxy import SeveringProxy
from stage import Stage


@pytest.fixture(scope="module")
async def _staged(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """One platform per file; a file may say `OVERRIDES`, settings of its own by program."""
    with passing_settings() as settings:
        # Between the API of orders and its database, for tests that cut a connection at a chosen moment.
        proxy = SeveringProxy(target_port=settings.port("postgres"))
        async with proxy.listening() as port:
            overrides = merged(
                HURRIED, {"orders-api": {"database.port": port}}, getattr(request.module, "OVERRIDES", {})
            )
            events = list[Event]()
            async with (
                running_platform(settings, overrides=overrides, on_event=events.append) as platform,
                open_patient_client(platform.installation) as client,
            ):
                yield Stage(platform=platform, client=client, proxy=proxy, events=events)


def merged(*layers: Overrides) -> Overrides:
    programs = {program for layer in layers for program in layer}
    return {name: {k: v for layer in layers for k, v in layer.get(name, {}).items()} for name in programs}


@pytest.fixture
async def stage(_staged: Stage) -> AsyncIterator[Stage]:
    """The platform without faults, and afterwards again: a test that failed half-way does not fail the next."""
    _staged.begin()
    yield _staged
    await _staged.heal()
