"""No other account of the machine may read what an installation keeps, whatever the umask of whoever starts it."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_local.platform import running_platform
from holdfast_local.private import private_folder
from holdfast_local.processes import spawn
from simulator_process import mailbox as new_mailbox
from test_local_runner import settings

__all__ = ["settings"]

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def _open_umask() -> Iterator[None]:
    """With which everything is readable and writable for all that is not made otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("_open_umask")
async def test_a_running_platform_keeps_nothing_that_others_may_read(settings):
    settings.state.mkdir()  # as an earlier release left it
    (settings.state / "logs").mkdir()
    async with running_platform(settings):
        assert mode_of(settings.state) == (0o711 if IS_ROOT else 0o700)  # PostgreSQL's account passes through
        found = list(settings.state.rglob("*"))
        assert {"lock", "run.json", "logs", "orders-api.log", "secrets", "valkey.conf"} <= {path.name for path in found}
        assert {str(path): oct(mode_of(path)) for path in found if mode_of(path) & 0o077} == {}


@pytest.mark.usefixtures("_open_umask")
def test_a_simulator_s_database_is_its_account_s_alone(tmp_path):
    (tmp_path / "m.db").touch(0o644)  # as an earlier release left it
    simulator = new_mailbox(tmp_path)
    simulator.start()
    try:
        files = {path.name: oct(mode_of(path)) for path in tmp_path.iterdir()}
    finally:
        simulator.end()
    assert files == dict.fromkeys(("m.db", "m.db-wal", "m.db-shm"), oct(0o600))


@pytest.mark.usefixtures("_open_umask")
async def test_what_a_program_of_the_runner_writes_is_private(tmp_path):
    written = tmp_path / "written"
    write = f"open({str(written)!r}, 'w')"
    assert await (await spawn([sys.executable, "-c", write], log=tmp_path / "log")).wait() == 0
    assert (mode_of(written), mode_of(tmp_path / "log")) == (0o600, 0o600)


@pytest.mark.usefixtures("_open_umask")
def test_a_folder_that_is_shared_on_purpose_stays_as_it_is(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert mode_of(private_folder(shared)) == 0o1777
