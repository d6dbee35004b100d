"""The verdict: wait until nothing is under way, then judge every order's file, whatever belongs to none, and the whole.

Six systems have no common moment. But when two looks see the same, and nothing under way in it, then what was read
between the two was true of all of them together: nothing that was read can go back to what it was.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Container, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from oracle import strays
from oracle.case import Case, Letter
from oracle.databases import Database, Snapshots, snapshot_of
from oracle.filing import Files
from oracle.findings import Finding, counted
from oracle.history import History, judge_history, read_interruptions, size_of
from oracle.invariants import OF_AN_ORDER, mails
from oracle.outside import Outside, open_outside
from oracle.report import Report
from oracle.rows import SERVICES
from oracle.sources import NoVerdict, Sources
from oracle.standing import Standing, UnderWay, judge_standing, look, tally
from oracle.terms import Terms

FIRST_PAUSE = 0.1  # seconds between two looks; doubled up to the longest
LONGEST_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Opened:
    """Every source, the databases each in one snapshot; `totals` is how much there is outside."""

    databases: Snapshots
    outside: Outside
    totals: Mapping[str, int]


async def examine(sources: Sources, terms: Terms, *, wait: float, history: Path | None = None) -> Report:
    """Look until nothing is under way, or for `wait` seconds, and judge. Raises `NoVerdict` when a source cannot be
    read.

    What is stuck gets the whole wait to come loose. At its end it keeps no one from judging: only what is under way
    within its limits does, since it shows that traffic goes on, or that the wait was too short.
    """
    deadline = time.monotonic() + wait
    pause, before = FIRST_PAUSE, await _look(sources, terms)
    while True:
        await asyncio.sleep(pause)
        told = History(history, size_of(history))
        async with opened(sources) as world:
            standing = await look(world.databases, world.totals, terms)
            is_late = time.monotonic() >= deadline
            moving = _moving(standing.under_way, is_same=before.marks == standing.marks)
            if is_late or (not moving and not standing.under_way):
                findings = await judge(world, sources, terms, standing, told, is_quiet=not moving)
                after = await _look(sources, terms)
                changed = _moving(after.under_way, is_same=after.marks == standing.marks)
                if moving or not changed:
                    return Report(findings, moving)
                if is_late or time.monotonic() >= deadline:
                    return Report([finding for finding in findings if finding.name not in ONCE_QUIET], changed)
                standing = after
        before, pause = standing, min(2 * pause, LONGEST_PAUSE)


async def judge(
    world: Opened, sources: Sources, terms: Terms, standing: Standing, history: History, *, is_quiet: bool
) -> list[Finding]:
    """What always holds, and of a quiet platform what holds between its systems."""
    terms = replace(terms, interruptions=(*terms.interruptions, *read_interruptions(history.file)))
    files = Files(world.databases, world.outside, sources.customer_url)
    judgement = _Judgement(terms, is_quiet=is_quiet)
    async for cases in files.cases():
        for case in cases:
            judgement.hear(case)
    async for letters in files.notices():
        for letter in letters:
            judgement.hear_notice(letter)
    async for invariant, offender in strays.always(world.databases):
        judgement.findings[invariant.name].add([offender])
    if is_quiet:
        async for invariant, offender in strays.once_quiet(world.databases, world.outside, world.totals, files.seen):
            judgement.findings[invariant.name].add([offender])
    whole = [*judge_standing(standing, terms), await judge_history(world.databases["orders"], history)]
    return [*judgement.told(ALWAYS), *whole, *judgement.told(ONCE_QUIET)]


class _Judgement:
    """What the invariants about an order have come to so far."""

    def __init__(self, terms: Terms, *, is_quiet: bool) -> None:
        self._terms = terms
        self._invariants = [invariant for invariant in OF_AN_ORDER if is_quiet or invariant.always]
        self._total = Counter[str]()
        self.findings = {invariant.name: Finding(invariant.name) for invariant in self._invariants}

    def hear(self, case: Case) -> None:
        self._total.update(case.tally())
        for invariant in self._invariants:
            self.findings[invariant.name].add(invariant.check(case, self._terms))

    def hear_notice(self, letter: Letter) -> None:
        self._total.update({"mail": 1, "copy": len(letter.copies)})
        self.findings[mails.copies_have_a_cause.name].add(mails.copies_of_letter_have_a_cause(letter, self._terms))
        for invariant, check in (
            (mails.each_event_is_mailed_once, mails.letter_is_mailed_once),
            (mails.mails_say_what_happened, mails.copies_say_what_was_written),
        ):
            if invariant.name in self.findings:
                self.findings[invariant.name].add(check(letter))

    def told(self, names: Container[str]) -> list[Finding]:
        """The findings of these names, with what they rest on."""
        for invariant in self._invariants:
            self.findings[invariant.name].counts = counted(self._total, invariant.nouns)
        return [finding for name, finding in self.findings.items() if name in names]


ALWAYS = {invariant.name for invariant in OF_AN_ORDER if invariant.always}
ONCE_QUIET = {invariant.name for invariant in OF_AN_ORDER if not invariant.always}
"""Those about the whole, and the history, always hold, too."""


@asynccontextmanager
async def opened(sources: Sources) -> AsyncIterator[Opened]:
    """Raises `NoVerdict` naming every source that cannot be read."""
    dsns = (sources.orders_dsn, sources.payments_dsn, sources.notifications_dsn, sources.webhook_ingest_dsn)
    databases, totals = dict[str, Database](), dict[str, int]()
    async with AsyncExitStack() as stack:
        outside = await stack.enter_async_context(open_outside(sources))

        async def open_database(service: str, dsn: str) -> None:
            databases[service] = await stack.enter_async_context(snapshot_of(dsn, service))

        async def read_totals(part: Awaitable[Mapping[str, int]]) -> None:
            totals.update(await part)

        opening = [open_database(service, dsn) for service, dsn in zip(SERVICES, dsns, strict=True)]
        await _all([*opening, *map(read_totals, outside.totals())])
        yield Opened({service: databases[service] for service in SERVICES}, outside, totals)


async def _all(reading: Iterable[Awaitable[None]]) -> None:
    """Wait for all, so that every source that cannot be read is named at once."""
    failures = [failure for failure in await asyncio.gather(*reading, return_exceptions=True) if failure is not None]
    for failure in failures:
        if not isinstance(failure, NoVerdict):
            raise failure
    if failures:
        raise NoVerdict("\n".join(map(str, failures))) from failures[0]


async def _look(sources: Sources, terms: Terms) -> Standing:
    async with opened(sources) as world:
        return await look(world.databases, world.totals, terms)


def _moving(unfinished: Iterable[UnderWay], *, is_same: bool) -> str:
    """Why it is no moment to judge by; empty when it is."""
    if moving := [item for item in unfinished if not item.is_stuck]:
        return f"{tally(moving)} under way"
    return "" if is_same else "one look differs from the next"
