"""What every caller is measured by: `python <caller>.py PORT CALLS` prints the microseconds of CPU that one call costs.

Ten callers at once, each with one call at a time; the first tenth of all calls comes before the clock starts.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext

import uvloop

CALLERS = 10
CHARGE = {"reference": "019b5c1e-7c1a-7d6e-8f00-000000000001", "amount": 12898, "currency": "EUR"}

type Call = Callable[[], Awaitable[object]]
"""Makes one call and returns the parsed answer."""
type Opened = Callable[[str], AbstractAsyncContextManager[Call]]
"""`opened(url)`: how to make calls to that server."""


def no_surroundings(_caller: int) -> AbstractContextManager[object]:
    return nullcontext()


def main(opened: Opened, around: Callable[[int], AbstractContextManager[object]] = no_surroundings) -> None:
    """`around(n)` is entered once by the n-th caller, and is where all its calls happen."""
    port, calls = map(int, sys.argv[1:])

    async def measure() -> float:
        async with opened(f"http://127.0.0.1:{port}") as call:

            async def caller(number: int, times: int) -> None:
                with around(number):
                    for _ in range(times):
                        answer = await call()
                        assert isinstance(answer, dict)
                        assert answer["id"] == "ch_1"

            async def all_callers(times: int) -> None:
                async with asyncio.TaskGroup() as tasks:
                    for number in range(CALLERS):
                        tasks.create_task(caller(number, times // CALLERS))

            await all_callers(calls // 10)
            spent = time.process_time()
            await all_callers(calls)
            return (time.process_time() - spent) / calls * 1_000_000

    microseconds = uvloop.run(measure())
    print(microseconds)
