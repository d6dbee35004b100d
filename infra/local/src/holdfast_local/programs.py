"""A program as data: what the topology lists and the supervisor runs."""

import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast_local.processes import Account

type Probe = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run and how. Without `answers` it runs once: those after it wait until it has exited with 0."""

    name: str
    command: Sequence[str | Path]
    log: Path
    env: Mapping[str, str] | None = None
    after: frozenset[str] = frozenset()
    answers: Probe | None = None
    account: Account | None = None
    address: str = ""
    management: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)  # by the setting that moves them
    start_seconds: float = 30.0
    stop_seconds: float = 25.0  # above the services' drain time-out of 20 s
    stop_signal: signal.Signals = signal.SIGTERM
    kill_signal: signal.Signals = signal.SIGKILL
    death_signal: signal.Signals = signal.SIGKILL
