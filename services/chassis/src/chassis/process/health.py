"""Health: whether a process is alive, started, ready or draining.

Liveness only needs a running event loop. The liveness probe checks no dependency, because a restart of this process
does not repair a database. Readiness checks the dependencies without which no request can be answered. `/readyz` also
names background tasks that fail. Such tasks affect neither liveness nor readiness: a failed task starts again, and the
process answers requests without this task.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

type Check = Callable[[], Awaitable[None]]

CHECK_TIMEOUT = 1.0
"""The time limit of a check, in seconds. The readiness probe waits longer, so it still gets an answer, which names the
dependency that did not respond."""


class Health:
    """Whether this process has started, is ready or is draining.

    `checks` maps a dependency's name to a function that raises an error if the dependency cannot be used.
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
        """The reasons why this process is not ready, by the name of the dependency. The result is empty if the process
        is ready.
        """
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
    except Exception as error:  # noqa: BLE001  any error of a check means "not ready"
        return type(error).__name__
    return None
