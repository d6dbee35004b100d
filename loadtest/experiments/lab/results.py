"""What an experiment found: a table, the theory beside it, the directions it asserts, and the raw numbers."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

type Row = Mapping[str, str | float | None]
"""A table's row; None is printed as a dash. Units are in the columns' names."""


class Check(NamedTuple):
    """A direction that has to hold, in words that say what was found."""

    holds: bool
    words: str


class Theory(NamedTuple):
    """What a formula says, and what was measured."""

    what: str
    predicted: str
    measured: str


@dataclass(kw_only=True)
class Results:
    experiment: str
    seed: int
    load: str = ""
    """What each arm got, in a sentence."""
    tables: dict[str, list[Row]] = field(default_factory=dict)
    """By caption; all rows of a table have the same columns."""
    theory: list[Theory] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)
    """What the chart is drawn from."""
    machine: dict[str, Any] = field(default_factory=dict)

    def check(self, words: str, *, holds: bool) -> None:
        self.checks.append(Check(holds, words))

    def expect(self, what: str, predicted: str | float | None, measured: str | float | None) -> None:
        self.theory.append(Theory(what, text(predicted), text(measured)))

    @property
    def hold(self) -> bool:
        return bool(self.checks) and all(check.holds for check in self.checks)

    def note_machine(self, *, seconds: float, latest: float) -> None:
        """How busy the machine was: its load over the last minute, and how late the worst call was made."""
        self.machine = {
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 1),
            "seconds": round(seconds, 1),
            "generator_late_ms": round(latest * 1000),
        }

    def write(self, path: Path) -> None:
        """A line for each field: indented, a series of a thousand numbers would be a thousand lines."""
        fields = [
            f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in asdict(self).items()
        ]
        path.write_text("{\n" + ",\n".join(fields) + "\n}\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> "Results":
        raw = json.loads(path.read_text("utf-8"))
        raw["theory"] = [Theory(*row) for row in raw["theory"]]
        raw["checks"] = [Check(*row) for row in raw["checks"]]
        return cls(**raw)

    def printed(self) -> str:
        """For a terminal."""
        tables = [f"{caption}\n{_aligned(_cells(rows))}" for caption, rows in self.tables.items()]
        theory = [_aligned([list(Theory._fields), *map(list, self.theory)])]
        return "\n\n".join([self.load, *tables, *theory, "\n".join(self._verdicts())])

    def markdown(self) -> str:
        """The same for the experiment's page, which has this between two marks."""
        tables = [f"{caption}:\n\n{_piped(_cells(rows))}" for caption, rows in self.tables.items()]
        theory = [_piped([["Theory", "predicted", "measured"], *map(list, self.theory)])]
        verdicts = ["\n".join(f"- {line}" for line in self._verdicts())]
        return "\n\n".join([*tables, *theory, *verdicts, self._conditions()])

    def _verdicts(self) -> list[str]:
        return [f"{'✔' if holds else '✘'} {words}" for holds, words in self.checks]

    def _conditions(self) -> str:
        found = self.machine
        return (
            f"One run of {found['seconds']:.0f} s on {found['cores']} cores, load average {found['load_average']}; "
            f"the worst call was made {found['generator_late_ms']:,} ms late. Seed {self.seed}."
        )


def text(value: str | float | None) -> str:
    """A figure as people read it: three digits that mean something are enough."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"  # noqa: PLR2004


def figure(rows: Mapping[str, Row], arm: str, what: str) -> float:
    """A table's number."""
    value = rows[arm][what]
    if not isinstance(value, int | float):
        raise TypeError(f"{what} of {arm} is {value!r}, no number")
    return value


def percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    return [list(rows[0]), *([text(value) for value in row.values()] for row in rows)]


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def _piped(cells: Sequence[Sequence[str]]) -> str:
    head, *rows = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in cells)
    return "\n".join([f"| {head} |", "|" + "---|" * len(cells[0]), *(f"| {row} |" for row in rows)])
