"""Starting one child so that it cannot outlive the runner, and stopping it so that it always ends.

Children get a session of their own, so that Ctrl-C reaches the runner alone and the runner decides the order in
which things stop. On Linux the kernel sends each child its `death_signal` when the runner dies, however it dies;
elsewhere the next `up` or `down` finds what is left by the run record.
"""

import asyncio
import ctypes
import os
import pwd
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast_local.errors import RunnerError, full_disk
from holdfast_local.private import UMASK, private_file

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True, kw_only=True)
class Account:
    """Whom a program runs as."""

    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """`nobody` when we are root (PostgreSQL refuses to run as root), else None: run as ourselves."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(uid=nobody.pw_uid, gid=nobody.pw_gid)


async def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> Process:
    """The started child; its output is appended to `log`. `env` replaces the environment, None inherits it.

    Raises RunnerError when the program cannot be started.
    """
    with private_file(log, "ab") as output:
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                env=env,
                cwd="/",  # a folder that every account can enter
                start_new_session=True,
                umask=UMASK,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                # It runs after the change of user, which would reset the death signal.
                preexec_fn=_die_with_parent(death_signal),
            )
        except OSError as error:
            raise RunnerError(f"cannot start {command[0]}: {error.strerror}") from error


async def wait_until_ready(
    process: Process,
    answers: Callable[[], Awaitable[bool]],
    *,
    name: str,
    log: Path,
    deadline_seconds: float,
) -> None:
    """Return once `answers` says yes; it is asked every 50 ms.

    Raises RunnerError with the end of the log when the process exits before, or the deadline passes.
    """
    try:
        async with asyncio.timeout(deadline_seconds):
            while not await answers():
                if process.returncode is not None:
                    raise failure(name, f"exited with {process.returncode} before it was ready", log)
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise failure(name, f"was not ready within {deadline_seconds:.0f} s", log) from None


def failure(name: str, what: str, log: Path) -> RunnerError:
    """An error that ends with the last lines the process wrote, where its own reason usually is."""
    lines = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
    if reason := full_disk(log.parent, "\n".join(lines)):
        return reason
    return RunnerError("\n".join([f"{name} {what}; the end of {log}:", *(f"  {line}" for line in lines)]))


async def stop(process: Process, *, stop_signal: signal.Signals, deadline_seconds: float) -> int:
    """The exit code, after a request to stop and, when the deadline has passed, SIGKILL to its whole session."""
    if process.returncode is None:
        process.send_signal(stop_signal)
    try:
        async with asyncio.timeout(deadline_seconds):
            return await process.wait()
    except TimeoutError:
        return await kill(process)


async def kill(process: Process, kill_signal: signal.Signals = signal.SIGKILL) -> int:
    """The exit code after a signal that nothing survives, sent to the process and whatever it started."""
    if process.returncode is None:  # until then its number cannot belong to anybody else
        with suppress(ProcessLookupError):
            os.killpg(process.pid, kill_signal)
    return await process.wait()


def _die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here: nothing may be loaded between fork and exec
    parent = os.getpid()

    def ask_the_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:  # the runner died before the kernel was asked
            os._exit(1)

    return ask_the_kernel
