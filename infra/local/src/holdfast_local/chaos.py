"""`holdfast-local chaos`: seeded rounds of orders and faults; after each, the oracle. docs/tutorial/faults.md tells it.

The seed decides what is bought and what goes wrong, not how the machine interleaves it: a round that is run again does
the same things at nearly the same moments.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from time import monotonic

from rich.console import Console
from rich.text import Text

from holdfast_local.audit import ask_oracle
from holdfast_local.chaos_client import Card, Purchase, open_patient_client
from holdfast_local.chaos_faults import Fault, Scene, random_fault
from holdfast_local.chaos_settings import HURRIED, passing_settings
from holdfast_local.errors import RunnerError
from holdfast_local.platform import running_platform
from holdfast_local.runs import end_leftovers, only_run
from holdfast_local.secrets import CLIENTS
from holdfast_local.settings import LocalSettings
from holdfast_local.state import remove_state
from holdfast_local.supervisor import Change, Event

_QUIET_SECONDS = 60  # for the oracle to wait; with leases of 2 s and back-offs of 2 s, ten times what is needed
_FAULTS_SECONDS = 2.0  # within which the faults of a round begin; the slow ones last longer
_READY_SECONDS = 60.0

_CARDS: Sequence[Card] = ("pm_card_ok", "pm_card_ok", "pm_card_ok", "pm_card_declined", "pm_card_fails_later")


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A purchase, when it is made, and after how many more seconds it is called off, if it is; seconds in the round."""

    purchase: Purchase
    at: float
    called_off_after: float | None

    @property
    def outcome(self) -> str:
        is_paid = self.called_off_after is None and self.purchase.card == "pm_card_ok"
        return "confirmed" if is_paid else "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What happens in a round, as its number and the seed decide."""

    number: int
    errands: Sequence[Errand]
    faults: Sequence[tuple[float, Fault]]


def plan(seed: int, number: int) -> Round:
    """Round `number`, the same for the same seed: four to eight orders and one to three faults."""
    rng = Random(f"{seed}:{number}")  # noqa: S311  repeatable on purpose
    errands = [_errand(rng, f"chaos-{seed}-{number}-{n}") for n in range(rng.randint(4, 8))]
    faults = [(rng.uniform(0, _FAULTS_SECONDS), random_fault(rng)) for _ in range(rng.randint(1, 3))]
    return Round(number=number, errands=errands, faults=sorted(faults, key=lambda timed: timed[0]))


def _errand(rng: Random, key: str) -> Errand:
    return Errand(
        purchase=Purchase(key=key, client=rng.choice(CLIENTS), card=rng.choice(_CARDS), quantity=rng.randint(1, 3)),
        at=rng.uniform(0, 1.2 * _FAULTS_SECONDS),
        called_off_after=rng.choice((None, None, 0.0, rng.uniform(0, 1), rng.uniform(0, 3))),
    )


@dataclass(slots=True)
class Totals:
    orders: int = 0
    kills: int = 0
    restarts: int = 0
    repeats: int = 0
    interruptions: int = 0
    duplicates: int = 0
    violations: list[str] = field(default_factory=list)


async def chaos(settings: LocalSettings, console: Console, *, seed: int, rounds: range) -> None:
    """Run the rounds on a platform of its own. Raises RunnerError at the first one that violates anything, with the
    seed and the round; then its state and logs stay. Cancelled, it prints the totals of the rounds that were run.
    """
    with _fresh_state(settings) as own:
        totals, began = Totals(), monotonic()
        console.print(f"Seed {seed}; starting a platform, its state is in {own.state}", soft_wrap=True)
        try:
            number = await _run_rounds(own, console, totals, seed=seed, rounds=rounds)
        except asyncio.CancelledError:
            _print_totals(console, totals, seconds=monotonic() - began)
            remove_state(own.state)
            raise
        _print_totals(console, totals, seconds=monotonic() - began)
        if totals.violations:
            again = f"again: make chaos SEED={seed} FIRST={number} ROUNDS=1; the logs are in {own.state / 'logs'}"
            raise RunnerError("\n".join([*totals.violations, again]))
    remove_state(own.state)


async def _run_rounds(own: LocalSettings, console: Console, totals: Totals, *, seed: int, rounds: range) -> int:
    """The number of the last round that was run: the first with a violation, if there is one."""
    crashes: list[Event] = []

    def note(event: Event) -> None:
        if event.change is Change.CRASHED:
            crashes.append(event)

    async with (
        running_platform(own, overrides=HURRIED, on_event=note) as platform,
        open_patient_client(platform.installation) as client,
    ):
        scene = Scene(platform=platform, client=client, crashes=crashes)
        for number in rounds:
            await _run_round(plan(seed, number), scene, totals, console)
            if totals.violations:
                return number
    return rounds[-1]


@contextmanager
def _fresh_state(settings: LocalSettings) -> Iterator[LocalSettings]:
    state = settings.state / "chaos"
    with only_run(state):
        end_leftovers(state)
    remove_state(state)
    with passing_settings(state) as own:
        yield own


async def _run_round(round_: Round, scene: Scene, totals: Totals, console: Console) -> None:
    began, repeats_before = monotonic(), scene.client.repeats
    problems = await _problems(round_, scene)
    await _count(totals, round_, scene)
    totals.violations += problems
    repeats = scene.client.repeats - repeats_before
    _print_round(console, round_, repeats=repeats, holds=not problems, seconds=monotonic() - began)


async def _problems(round_: Round, scene: Scene) -> list[str]:
    """Perform the round; everything in it, and in what it left behind, that is not as it must be."""
    scene.signalled.clear()
    scene.crashes.clear()
    given_up: list[str] = []
    order_ids: list[str] = []
    try:
        order_ids = await _perform(round_, scene)
    except* (RunnerError, TimeoutError) as failures:
        given_up = [f"given up: {error!r}" for error in failures.exceptions]
    if given_up:
        return given_up + _ended_by_themselves(scene)
    options = ["--wait", str(_QUIET_SECONDS)]
    code, verdict = await ask_oracle(scene.platform.installation, options)
    return [*([verdict] if code else []), *await _deviations(round_, order_ids, scene), *_ended_by_themselves(scene)]


async def _perform(round_: Round, scene: Scene) -> list[str]:
    """The ids of the orders, when all faults are over."""
    async with asyncio.TaskGroup() as tasks:
        placing = [tasks.create_task(_run_errand(errand, scene)) for errand in round_.errands]
        tasks.create_task(_cause(round_.faults, scene))
    return [task.result() for task in placing]


def _ended_by_themselves(scene: Scene) -> list[str]:
    return [
        f"{event.program} ended though nobody told it to: {event.detail}"
        for event in scene.crashes
        if event.program not in scene.signalled
    ]


async def _count(totals: Totals, round_: Round, scene: Scene) -> None:
    mails = await scene.client.read_message_ids()
    totals.orders += len(round_.errands)
    totals.kills = scene.kills
    totals.restarts = sum(entry.restarts for entry in scene.platform.supervisor.entries.values())
    totals.repeats = scene.client.repeats
    totals.interruptions = scene.platform.history.interruptions
    totals.duplicates = len(mails) - len(set(mails))


async def _run_errand(errand: Errand, scene: Scene) -> str:
    await asyncio.sleep(errand.at)
    order_id = await scene.client.buy(errand.purchase)
    if errand.called_off_after is not None:
        await asyncio.sleep(errand.called_off_after)
        await scene.client.call_off(errand.purchase.client, order_id)
    return order_id


async def _cause(faults: Sequence[tuple[float, Fault]], scene: Scene) -> None:
    """Each fault at its moment; when all have been for a while, they end, and everything is ready again."""
    async with asyncio.TaskGroup() as tasks:
        for at, fault in faults:
            tasks.create_task(_begin(at, fault, scene))
        tasks.create_task(asyncio.sleep(1.5 * _FAULTS_SECONDS))
    async with asyncio.timeout(_READY_SECONDS):
        for _, fault in faults:
            await fault.end(scene)


async def _begin(at: float, fault: Fault, scene: Scene) -> None:
    await asyncio.sleep(at)
    await fault.begin(scene)


async def _deviations(round_: Round, order_ids: Sequence[str], scene: Scene) -> list[str]:
    """What the oracle cannot know: how each order had to end."""
    problems = []
    for errand, order_id in zip(round_.errands, order_ids, strict=True):
        status = await scene.client.read_status(errand.purchase.client, order_id)
        if status != errand.outcome:
            problems.append(f"order {order_id} ({errand}) is {status}; it should be {errand.outcome}")
    return problems


def _print_round(console: Console, round_: Round, *, repeats: int, holds: bool, seconds: float) -> None:
    called_off = sum(errand.called_off_after is not None for errand in round_.errands)
    line = Text.assemble(
        (f"{round_.number:>3}  ", "bold"),
        ("✔ " if holds else "✘ ", "green" if holds else "bold red"),
        f"{len(round_.errands)} orders, {called_off} called off, {repeats:>2} requests repeated, {seconds:4.1f} s:  ",
        "; ".join(fault.name for _, fault in round_.faults),
    )
    console.print(line, soft_wrap=True)


def _print_totals(console: Console, totals: Totals, *, seconds: float) -> None:
    console.print(
        f"{totals.orders} orders, {totals.kills} kills, {totals.restarts} restarts, {totals.repeats} requests repeated,"
        f" {totals.duplicates} duplicates (of mails; {totals.interruptions} interruptions of what sends them),"
        f" {len(totals.violations)} violations, {seconds:.0f} s",
        soft_wrap=True,
    )
