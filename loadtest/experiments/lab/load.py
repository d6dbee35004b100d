"""Open-loop load: calls come when they come, however long the earlier ones take, and the same ones to each arm."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: when it was due and how long it took from then on, in seconds, and what came of it.

    From when it was *due*: a generator that measures from when it got round to it leaves the waiting out.
    """

    what: str
    due: float
    seconds: float
    outcome: str


def poisson(rate: float, seconds: float, chance: random.Random) -> list[float]:
    """The moments of `rate` arrivals a second by callers who know nothing of each other."""
    moments, now = [], chance.expovariate(rate)
    while now < seconds:
        moments.append(now)
        now += chance.expovariate(rate)
    return moments


def merged(**moments: Sequence[float]) -> list[tuple[float, str]]:
    """Several streams as one schedule, each moment with the name of its stream."""
    return sorted((moment, name) for name, stream in moments.items() for moment in stream)


class Generator:
    """Plays schedules, all from the same start. `latest` says how late in seconds it was at worst: beside a busy
    neighbour the load is not what was asked for, and whoever reads the figures should know.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.start = self._loop.time() + 0.5  # the arms' first calls are made together
        self.latest = 0.0

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self.start

    async def until(self, moment: float) -> None:
        if moment > self.now:
            await asyncio.sleep(moment - self.now)

    async def play(
        self, schedule: Iterable[tuple[float, str]], call: Callable[[str], Awaitable[str]], *, ends: float | None
    ) -> list[Call]:
        """Make each call at its moment, and return them: "unanswered" is what has no answer when the run `ends`;
        None: wait for all answers.
        """
        calls: list[Call] = []
        waiting: dict[asyncio.Task[None], tuple[str, float]] = {}

        async def make(what: str, due: float) -> None:
            outcome = await call(what)
            calls.append(Call(what=what, due=due, seconds=self.now - due, outcome=outcome))

        async with asyncio.TaskGroup() as tasks:
            for due, what in schedule:
                await self.until(due)
                self.latest = max(self.latest, self.now - due)
                task = tasks.create_task(make(what, due))
                waiting[task] = (what, due)
                task.add_done_callback(waiting.pop)
            if ends is None:
                await asyncio.gather(*waiting)
                ends = self.now
            await self.until(ends)
            for task, (what, due) in waiting.items():
                task.cancel()
                calls.append(Call(what=what, due=due, seconds=ends - due, outcome="unanswered"))
        return sorted(calls, key=lambda one: one.due)


def per_second(moments: Iterable[float], *, seconds: float, step: float = 1.0) -> list[float]:
    """How many a second, for each step of the run."""
    counts = [0] * round(seconds / step)
    for moment in moments:
        if 0 <= moment < len(counts) * step:
            counts[int(moment / step)] += 1
    return [count / step for count in counts]


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` (0 to 1) of them are not above; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
