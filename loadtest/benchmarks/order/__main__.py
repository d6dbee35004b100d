"""What a whole order costs, from its POST to its last mail, beside the same saga written plainly: `make bench-order`.

Each arm runs alone, over the runner's simulators and an empty, durable PostgreSQL, and gets the same load. Rounds are
interleaved. The table has the CPU of each process per order, what PostgreSQL did for it, and the orders per second to
the last mail. There is no gate yet: the figures are the baseline that later changes are compared with. The last line
is one JSON object.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from arms import ARMS
from holdfast_local.chaos_settings import passing_settings
from holdfast_local.errors import RunnerError
from holdfast_local.platform import running_platform
from placing import BenchError, Placed, place
from sampled import sampling
from spending import Spent, count_statements, spent

WARM_UP_ORDERS = 50  # every process has then prepared its statements and opened its connections
IDLE_SECONDS = 5.0
ROUNDS = 2  # the second in reverse, so that a neighbour's work that grows or fades falls on all arms alike
OWN = "holdfast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Of one arm, in one round or in all."""

    orders: int
    spent: Spent
    placed: Placed
    idle: float
    """CPU of all processes with nothing to do, as a share of one core."""
    kinds: Mapping[str, float]
    """The share of each kind of work in the CPU of the APIs and workers."""

    @classmethod
    def of(cls, rounds: Sequence[Self]) -> Self:
        """All rounds as one: what they spent together, for all their orders."""
        return cls(
            orders=sum(each.orders for each in rounds),
            spent=Spent.of([each.spent for each in rounds]),
            placed=Placed(
                sum(each.placed.seconds for each in rounds), statistics.mean(each.placed.behind for each in rounds)
            ),
            idle=statistics.mean(each.idle for each in rounds),
            kinds={
                kind: statistics.mean(each.kinds.get(kind, 0.0) for each in rounds)
                for kind in dict.fromkeys(kind for each in rounds for kind in each.kinds)
            },
        )

    @property
    def milliseconds(self) -> Mapping[str, float]:
        """CPU per order by program, the most first."""
        each = {program: seconds / self.orders * 1000 for program, seconds in self.spent.cpu.items()}
        return dict(sorted(each.items(), key=lambda item: -item[1]))

    @property
    def milliseconds_by_kind(self) -> Mapping[str, float]:
        """CPU of the APIs and workers per order by kind of work."""
        python = sum(ms for name, ms in self.milliseconds.items() if name.endswith(("-api", "-worker")))
        return {kind: share * python for kind, share in self.kinds.items()}

    @property
    def figures(self) -> Mapping[str, float]:
        return {
            "cpu_ms": round(sum(self.milliseconds.values()), 1),
            "transactions": round(self.spent.transactions / self.orders, 1),
            "statements": round(self.spent.statements / self.orders, 1),
            "commands": round(self.spent.commands / self.orders, 1),
            "sql_kb": round(sum(self.spent.sql_bytes.values()) / self.orders / 1000, 1),
            "valkey_kb": round(self.spent.valkey_bytes / self.orders / 1000, 1),
            "orders_per_second": round(self.orders / self.placed.seconds, 1),
            "seconds_behind": round(self.placed.behind, 1),
            "idle_cores": round(self.idle, 3),
        }


async def measure(name: str, *, orders: int, rate: float | None) -> Found:
    with passing_settings() as passing, sampling() as samples:
        settings = passing.model_copy(update={"postgres_durable": True})
        await count_statements(settings)
        arm = ARMS[name](settings)
        adapt = samples.adapt(arm.adapt)
        async with running_platform(settings, adapt=adapt, wanted=arm.wanted, overrides=arm.overrides) as platform:
            await place(platform, WARM_UP_ORDERS)
            before = await spent(platform)
            placed = await place(platform, orders, rate=rate)
            working = await spent(platform) - before
            before = await spent(platform)
            await asyncio.sleep(IDLE_SECONDS)
            resting = await spent(platform) - before
            samples.signal(platform)
            await place(platform, max(orders // 3, WARM_UP_ORDERS), rate=rate)
            kinds = await samples.read(samples.signal(platform))
            restarted = [program for program in platform.supervisor.entries if platform.restarts(program)]
    if restarted:
        raise BenchError(f"{name}: {', '.join(restarted)} ended and started again meanwhile")
    # `spent` itself waits a second.
    idle = sum(resting.cpu.values()) / (IDLE_SECONDS + 1)
    return Found(orders=orders, spent=working, placed=placed, idle=idle, kinds=kinds)


def report(found: Mapping[str, Found]) -> None:
    """A column for each arm."""
    programs = dict.fromkeys(program for one in found.values() for program in one.milliseconds)
    print(_row("CPU per order, ms", found))
    for program in programs:
        cells = [f"{one.milliseconds[program]:.1f}" if program in one.milliseconds else "" for one in found.values()]
        print(_row(f"  {program}", cells))
    kinds = dict.fromkeys(kind for one in found.values() for kind in one.kinds)
    print(_row("of it APIs and workers, by kind", [""] * len(found)))
    for kind in kinds:
        print(_row(f"  {kind}", [f"{one.milliseconds_by_kind.get(kind, 0):.1f}" for one in found.values()]))
    for label, name in _LABELS.items():
        print(_row(label, [f"{one.figures[name]:.2f}".rstrip("0").rstrip(".") for one in found.values()]))
    if ratios := ratios_of(found):
        print(_row("CPU ÷ ours", ["", *(f"{ratio:.2f}" for ratio in ratios.values())]))


_LABELS = {
    "  all processes": "cpu_ms",
    "transactions per order": "transactions",
    "statements (round trips)": "statements",
    "Valkey's commands per order": "commands",
    "kB per order, PostgreSQL": "sql_kb",
    "kB per order, Valkey": "valkey_kb",
    "orders/s to the last mail": "orders_per_second",
    "last mail after last POST, s": "seconds_behind",
    "cores with nothing to do": "idle_cores",
}


def _row(label: str, cells: Sequence[str] | Mapping[str, Found]) -> str:
    return f"{label:32}" + "".join(f"{cell:>14}" for cell in cells)


def ratios_of(found: Mapping[str, Found]) -> Mapping[str, float]:
    """By arm: its CPU per order ÷ ours; 1 for guarantees that cost nothing."""
    if OWN not in found:
        return {}
    ours = found[OWN].figures["cpu_ms"]
    return {name: round(one.figures["cpu_ms"] / ours, 3) for name, one in found.items() if name != OWN}


async def main(arguments: argparse.Namespace) -> None:
    names = arguments.only or [*ARMS]
    rounds: Mapping[str, list[Found]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in reversed(names) if number % 2 else names:
            print(f"round {number + 1} of {arguments.rounds}, {name}: {arguments.orders} orders", file=sys.stderr)
            rounds[name].append(await measure(name, orders=arguments.orders, rate=arguments.rate))
    found = {name: Found.of(each) for name, each in rounds.items()}
    report(found)
    if arguments.chart:
        sys.path.append(str(Path(__file__).parents[2]))  # the style is the lab's
        from chart import draw  # noqa: PLC0415  matplotlib takes a second to import

        draw(found, arguments.chart)
    figures = {name: one.figures for name, one in found.items()}
    print(json.dumps({"bench": "order", "arms": figures, "ratios": ratios_of(found)}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A whole order, in CPU by process, beside plain sagas.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--orders", type=int, default=300, help="of each arm in a round")
    parser.add_argument("--rate", type=float, help="orders posted a second, however many are unfinished (open loop)")
    parser.add_argument("--only", action="append", choices=[*ARMS], help="this arm; may be repeated")
    parser.add_argument("--chart", type=Path, help="an SVG to write")
    try:
        asyncio.run(main(parser.parse_args()))
    except (BenchError, RunnerError) as error:
        sys.exit(f"bench-order: {error}")
