"""What an invariant comes to."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

KEPT = 100
"""Offenders of one invariant that are kept; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Offender:
    id: str
    problem: str


@dataclass(slots=True)
class Finding:
    """What one invariant comes to; `counts` says what the verdict rests on."""

    name: str
    counts: str = ""
    offenders: list[Offender] = field(default_factory=list)
    number: int = 0

    @property
    def holds(self) -> bool:
        return not self.number

    def add(self, offenders: Iterable[Offender]) -> None:
        for offender in offenders:
            self.number += 1
            if len(self.offenders) < KEPT:
                self.offenders.append(offender)


def counted(tally: Counter[str], nouns: Sequence[str]) -> str:
    """`3 orders, 1 key`."""
    return ", ".join(plural(tally[noun], noun) for noun in nouns)


def plural(count: int, noun: str) -> str:
    """`1 order`, `2 orders`; a participle stays as it is."""
    if count == 1 or noun.endswith(("ed", "paid")):
        return f"{count:,} {noun}"
    if noun.endswith("y") and not noun.endswith("ey"):
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}" if noun.endswith("s") else f"{count:,} {noun}s"
