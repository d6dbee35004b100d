"""What goes wrong in a round, as data: each fault begins, and may need an end."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Protocol
from urllib.parse import urlsplit

from holdfast_local.chaos_client import PatientClient
from holdfast_local.chaos_settings import LEASE_SECONDS
from holdfast_local.installation import Installation
from holdfast_local.platform import Platform
from holdfast_local.secrets import SERVICES
from holdfast_local.supervisor import Event

APIS = tuple(f"{service}-api" for service in SERVICES)
WORKERS = tuple(f"{service}-worker" for service in SERVICES)
SERVERS = ("postgres", "valkey")
SIMULATORS = ("payment-provider", "mailbox")


@dataclass(kw_only=True)
class Scene:
    """The platform under chaos. Of the present round: the processes that ended, and the programs told to end."""

    platform: Platform
    client: PatientClient
    crashes: list[Event]
    signalled: set[str] = field(default_factory=set)
    kills: int = 0


class Fault(Protocol):
    @property
    def name(self) -> str: ...

    async def begin(self, scene: Scene) -> None: ...

    async def end(self, scene: Scene) -> None: ...


@dataclass(frozen=True, slots=True)
class Signal:
    """A program gets SIGKILL or SIGTERM; the runner starts it again."""

    program: str
    number: signal.Signals

    @property
    def name(self) -> str:
        return f"{self.number.name} {self.program}"

    async def begin(self, scene: Scene) -> None:
        scene.signalled.add(self.program)
        scene.kills += 1
        with suppress(ProcessLookupError):  # it has just ended for another reason, and is being started again
            scene.platform.kill(self.program, self.number)

    async def end(self, scene: Scene) -> None:
        await scene.platform.until_ready(self.program)


@dataclass(frozen=True, slots=True)
class Pause:
    """A worker is stopped for longer than its lease, and goes on as if nothing had happened."""

    program: str
    seconds: float = 1.5 * LEASE_SECONDS

    @property
    def name(self) -> str:
        return f"SIGSTOP {self.program}"

    async def begin(self, scene: Scene) -> None:
        pid, since = scene.platform.pid(self.program), datetime.now(UTC)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            with suppress(ProcessLookupError):  # it was killed while it stood still
                os.kill(pid, signal.SIGCONT)
            if self.program == "notifications-worker":
                scene.platform.history.note_interruption(self.name, since, datetime.now(UTC))

    async def end(self, scene: Scene) -> None:
        """It has ended."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Valkey loses everything, and goes on."""

    name: str = "FLUSHALL"

    async def begin(self, scene: Scene) -> None:
        await scene.platform.until_ready("valkey")
        with suppress(OSError):  # it was killed meanwhile, which has the same effect
            await flush(scene.platform.installation)

    async def end(self, scene: Scene) -> None:
        """Nothing brings back what is lost."""


@dataclass(frozen=True, slots=True)
class Switch:
    """Somebody else's system misbehaves, until it is told to stop."""

    program: str
    switches: Mapping[str, float | bool]

    @property
    def name(self) -> str:
        return f"{self.program} {', '.join(f'{name}={value}' for name, value in self.switches.items())}"

    async def begin(self, scene: Scene) -> None:
        await self._set(scene, self.switches)

    async def end(self, scene: Scene) -> None:
        await self._set(scene, {})

    async def _set(self, scene: Scene, switches: Mapping[str, float | bool]) -> None:
        await scene.platform.until_ready(self.program)
        if self.program == "mailbox":
            await scene.client.set_mailbox_faults(switches)
        else:
            await scene.client.set_provider_faults(switches)


_PROVIDER: Sequence[Mapping[str, float | bool]] = (
    {"hang": True},
    {"unavailable": True},
    {"error_rate_before": 0.5},
    {"error_rate_after": 0.5},
    {"answer_lost_rate": 0.5},
    {"latency_seconds": 1.5},
    {"webhook_duplicate_rate": 1.0, "webhook_reorder_rate": 0.5},
    {"webhook_drop_rate": 0.5},
    {"webhook_forged_rate": 0.5, "webhook_delay_seconds": 0.5},
    {"clock_skew_seconds": 600.0},
)
_MAILBOX: Sequence[Mapping[str, float | bool]] = ({"hang": True}, {"reject_rate": 0.5}, {"latency_seconds": 1.0})


def random_fault(rng: Random) -> Fault:
    """One of the kinds, then one of its cases: kills are as frequent as all that a provider can do."""
    kinds: Sequence[Callable[[], Fault]] = (
        lambda: Signal(rng.choice(APIS + WORKERS), signal.SIGKILL),
        lambda: Signal(rng.choice(SERVERS + SIMULATORS), signal.SIGKILL),
        lambda: Signal(rng.choice(APIS + WORKERS), signal.SIGTERM),
        lambda: Pause(rng.choice(WORKERS)),
        Flush,
        lambda: Switch("payment-provider", {**rng.choice(_PROVIDER), "seed": rng.randrange(2**32)}),
        lambda: Switch("mailbox", rng.choice(_MAILBOX)),
    )
    return rng.choices(kinds, weights=(3, 2, 2, 2, 1, 3, 1))[0]()


async def flush(installation: Installation) -> None:
    """FLUSHALL, spoken by hand: the runner needs no client library for one command. Raises OSError."""
    parts = urlsplit(installation.valkey.dsn)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"AUTH {parts.password}\r\nFLUSHALL\r\n".encode())
        answers = [await reader.readline(), await reader.readline()]
    finally:
        writer.close()
    if answers != [b"+OK\r\n", b"+OK\r\n"]:
        raise OSError(f"Valkey answered {answers}")
