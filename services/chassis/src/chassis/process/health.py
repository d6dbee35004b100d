"""Health: what a process says of itself on its management port.

Liveness answers as long as the event loop turns and never touches a dependency: restarting this process does not
heal a database. Readiness asks the dependencies without which no request can be answered. A background task that fails
is named beside them and changes neither: it begins again by itself, and requests are answered without it meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

type Check = Callable[[], Awaitable[None]]

CHECK_TIMEOUT = 1.0  # seconds; below the probe's own time-out, so that the answer names the dependency


class Health:
    """Whether this process has started, is ready and is on its way out.

    `checks` maps a dependency's name to what raises unless it can be used.
    """

    def __init__(self, checks: Mapping[str, Check] | None = None) -> None:
        self.checks = dict(checks or {})
        self.is_started = False
        self.is_draining = False

    def mark_started(self) -> None:
        self.is_started = True

    def mark_draining(self) -> None:
        self.is_draining = True

    async def problems(self) -> dict[str, str]:
        """What keeps this process from being ready, by name; empty when it is."""
        if not self.is_started:
            return {"process": "still starting"}
        if self.is_draining:
            return {"process": "shutting down"}
        found = await asyncio.gather(*(_run(check) for check in self.checks.values()))
        return {name: problem for name, problem in zip(self.checks, found, strict=True) if problem}


async def _run(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT} s"
    except Exception as error:  # noqa: BLE001  whatever a check raises means the same: not ready
        return type(error).__name__
    return None
