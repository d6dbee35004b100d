"""One platform for all points, each of whose processes can be told where to die: `crash_process.py`.

It takes minutes, and runs only when it is named, as `make test-crash` does.
"""

import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from crash_stage import CrashStage
from holdfast_local.chaos_client import PatientClient, open_patient_client
from holdfast_local.chaos_settings import HURRIED, passing_settings
from holdfast_local.demo_client import Endpoint
from holdfast_local.platform import running_platform
from holdfast_local.programs import Program
from holdfast_local.supervisor import Event, RestartPolicy
from holdfast_local.topology import Overrides
from severing_proxy import SeveringProxy

FOLDER = Path(__file__).parent
PROCESS = FOLDER / "crash_process.py"

_OF_SERVICE: Overrides = {
    "payments": {"shutdown.drain_timeout": 1},
    "notifications": {
        "sweeps.every": 1,
        "sweeps.stale_after": 3,
        # What began an attempt and died is waited for this long, and 5 s more.
        "webhooks.attempt_timeout": 2,
        "webhooks.connect_timeout": 1,
    },
}
OVERRIDES: Overrides = {
    program: {**settings, **_OF_SERVICE.get(program.rpartition("-")[0], {})} for program, settings in HURRIED.items()
}
START_SECONDS = 90.0  # two platforms start at once on two cores
AT_ONCE = RestartPolicy(first=0.1, cap=0.1)
"""Each process dies a dozen times here, and none of them because something is wrong with it."""


@pytest.fixture(scope="session")
async def _staged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CrashStage]:
    folder = tmp_path_factory.mktemp("crash")
    events = list[Event]()
    with passing_settings() as settings:
        async with (
            running_platform(
                settings,
                overrides=OVERRIDES,
                on_event=events.append,
                adapt=partial(_with_crash_points, folder),
                policy=AT_ONCE,
            ) as platform,
            open_patient_client(platform.installation) as client,
        ):
            await _register_endpoint(client)
            proxy = SeveringProxy(target_port=settings.port("postgres"))
            stage = CrashStage(platform=platform, client=client, proxy=proxy, events=events, folder=folder)
            yield stage
            await stage.close()


def _with_crash_points(folder: Path, program: Program) -> Program:
    command, *arguments = map(str, program.command)
    if program.answers is None or not program.management:
        return program
    service = Path(command).name
    return replace(program, command=[sys.executable, PROCESS, folder, service, *arguments], start_seconds=START_SECONDS)


async def _register_endpoint(client: PatientClient) -> None:
    """So that every event of an order is also delivered."""
    answer = await client.create_endpoint("acme")
    await client.give_secret("acme", Endpoint.model_validate_json(answer.body).secret)


@pytest.fixture
async def stage(_staged: CrashStage) -> AsyncIterator[CrashStage]:
    """The platform without faults, and afterwards again."""
    _staged.begin()
    yield _staged
    await _staged.heal()
