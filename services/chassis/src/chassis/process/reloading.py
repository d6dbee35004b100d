"""Reloading: when a mounted file changes, the running process applies the new values of all settings that may change,
or of none. A check of the mounted files has one of these results. The layers are the sources of settings
(`chassis.config` lists them):

    files unchanged ──▶ nothing happens
    files changed   ──▶ all layers are read ─ invalid ──▶ rejected: the last valid settings stay
                                            ─ valid ────▶ applied: settings of the allow-list get their new values
                                                          restart_needed: other changed settings are logged by name, and
                                                          keep their values until a restart

Every `reload.interval` seconds the process compares the contents of the files. So it notices changes by an editor, by
`mv`, and by the kubelet, which writes a new folder and replaces the link `..data`. The allow-list contains the settings
that their models mark with `RELOADED`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal, get_args

from prometheus_client import Counter
from pydantic import ValidationError

from chassis.config import Live, differences, settings_of
from chassis.config.layers import digest_of_files
from chassis.config.settings import RELOADED, DatabaseSettings, ServiceSettings
from chassis.errors import ConfigurationError
from chassis.logging import get_logger
from chassis.process.background import supervised

log = get_logger(__name__)

type Result = Literal["applied", "unchanged", "rejected", "restart_needed"]

reloads = Counter(
    "config_reload",
    "Checks that found changed files, by result (applied, unchanged, rejected, restart_needed). A check may have two.",
    ["result"],
)
for result in get_args(Result.__value__):
    # This call exports the value 0, so that an alert sees the first reload as an increase.
    reloads.labels(result)


def allow_list(settings_type: type[ServiceSettings]) -> set[str]:
    """The dotted names of the settings that may change while the process runs."""
    return {name for name, field in settings_of(settings_type).items() if field.json_schema_extra == RELOADED}


_PASSWORDS = frozenset({"database.password", "database.next_password"})


def _login(settings: DatabaseSettings) -> tuple[str, int, str]:
    """The login that a password belongs to: a user of one database server."""
    return settings.host, settings.port, settings.user


def take_over[S: ServiceSettings](current: S, found: S) -> S:
    """The current settings, with the allow-list's values taken from `found`. The result is validated as a whole.

    A change of the login (host, port or user) needs a restart, and then the new passwords wait for the restart, too.
    Raises `ConfigurationError` if the result breaks a rule between a new value and a setting that waits for a restart.
    """
    values, new = current.model_dump(), found.model_dump()
    waiting = _PASSWORDS if _login(current.database) != _login(found.database) else frozenset()
    for name in allow_list(type(current)) - waiting:
        *groups, last = name.split(".")
        target, source = values, new
        for group in groups:
            target, source = target[group], source[group]
        target[last] = source[last]
    try:
        return type(current)(**values)
    except ValidationError as error:
        problems = [problem["msg"] for problem in error.errors(include_input=False)]
        raise ConfigurationError([f"not before a restart: {problem}" for problem in problems]) from None


async def reload[S: ServiceSettings](live: Live[S]) -> set[Result]:
    """Check the files once, and apply their changes. The result is empty if no file has changed."""
    digest = await asyncio.to_thread(digest_of_files)
    if digest == live.digest:
        return set()
    found, problems = await asyncio.to_thread(_read, live)
    if await asyncio.to_thread(digest_of_files) != digest:
        return set()  # a file changed during the read: the next check reads all files again
    live.digest = digest
    results = _reject(problems) if found is None else _apply(live, found)
    for result in results:
        reloads.labels(result).inc()
    return results


@asynccontextmanager
async def reloading[S: ServiceSettings](
    live: Live[S], *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> AsyncIterator[None]:
    """While the block runs, check the files every `reload.interval` seconds."""
    async with supervised(partial(_keep_checking, live, sleep), name="reloading"):
        yield


async def _keep_checking[S: ServiceSettings](live: Live[S], sleep: Callable[[float], Awaitable[object]]) -> None:
    while True:
        await sleep(live.current.reload.interval)
        await reload(live)


def _read[S: ServiceSettings](live: Live[S]) -> tuple[S | None, tuple[str, ...]]:
    """The settings in the configuration layers now, or the problems of these settings."""
    try:
        return live.read(), ()
    except ConfigurationError as error:
        return None, error.problems


def _reject(problems: Sequence[str]) -> set[Result]:
    log.warning("config_reload_rejected", problems=list(problems))
    return {"rejected"}


def _apply[S: ServiceSettings](live: Live[S], found: S) -> set[Result]:
    try:
        taken = take_over(live.current, found)
    except ConfigurationError as error:
        return _reject(error.problems)
    applied, waiting = differences(live.current, taken), differences(taken, found)
    if applied:
        live.replace(taken)
        log.info("config_reloaded", settings=applied, config_hash=live.hash)
    if waiting:
        log.warning("config_restart_needed", settings=waiting)
    outcomes: dict[Result, list[str]] = {"applied": applied, "restart_needed": waiting}
    return {result for result, names in outcomes.items() if names} or {"unchanged"}
