"""A platform in a hurry: what it waits for in production minutes, it waits for in seconds. Nothing else differs."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from holdfast_local.errors import RunnerError
from holdfast_local.placement import passable_folder
from holdfast_local.ports import is_taken
from holdfast_local.secrets import SERVICES
from holdfast_local.settings import LocalSettings
from holdfast_local.state import remove_state
from holdfast_local.topology import Overrides

LEASE_SECONDS = 2.0

_EVERYWHERE: Mapping[str, object] = {
    "jobs.lease": LEASE_SECONDS,
    "jobs.backoff_base": 0.2,
    "jobs.backoff_cap": 2,
    "shutdown.drain_timeout": 3,
    # The limits are so high that no test meets them.
    "rate_limit.rate_per_second": 1000,
    "rate_limit.burst": 1000,
    "rate_limit.edges": '{"orders": {"payments": 10000}, "payments": {"provider": 10000}}',
}
_SWEEPS: Mapping[str, object] = {"sweeps.every": 1, "sweeps.stale_after": 3}
_OF_SERVICE: Mapping[str, Mapping[str, object]] = {
    "orders": {**_SWEEPS, "payments.breaker.open_seconds": 1, "payments.breaker.max_open_seconds": 2},
    "payments": {**_SWEEPS, "provider.breaker.open_seconds": 1, "provider.breaker.max_open_seconds": 2},
}

HURRIED: Overrides = {
    f"{service}-{role}": {**_EVERYWHERE, **_OF_SERVICE.get(service, {})}
    for service in SERVICES
    for role in ("api", "worker")
}
"""Leases of 2 s for 15 s, sweeps each second for what is 3 s old, breakers that try after 1 s for 15 s."""

# Below Linux's ephemeral ports (32768 up): while a server is down, one of its clients' own connections must not get its
# port, which on a loopback address even happens by connecting to oneself.
_PORTS = range(12_000, 32_000, 50)


@contextmanager
def passing_settings(state: Path | None = None) -> Iterator[LocalSettings]:
    """Settings of a platform that lives for one run: free ports, servers of its own, not durable against power cuts.

    Its state is in a temporary folder that is removed at the end, or in `state`, which stays.
    """
    ports = _free_block()
    if state is not None:
        yield _settings(state, ports)
        return
    with passable_folder(prefix="holdfast-chaos-") as folder:
        try:
            yield _settings(folder / "state", ports)
        finally:
            remove_state(folder / "state")


def _settings(state: Path, ports: Mapping[str, int]) -> LocalSettings:
    own = LocalSettings(state=state, port_offset=0, postgres_dsn=None, valkey_dsn=None, postgres_durable=False)
    return own.model_copy(update=ports)


def _free_block() -> dict[str, int]:
    names = [name for name in LocalSettings.model_fields if name.endswith("_port")]
    for base in random.sample(_PORTS, 20):  # at random: two that start together should not meet
        if not any(is_taken(base + n) for n in range(len(names))):
            return {name: base + n for n, name in enumerate(names)}
    raise RunnerError(f"no block of {len(names)} free ports between {_PORTS.start} and {_PORTS.stop}")
