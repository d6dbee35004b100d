"""An invariant: a name, what its verdict rests on, and a pure function that judges one order's file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from oracle.case import Case
from oracle.findings import Offender
from oracle.terms import Terms

type Check = Callable[[Case, Terms], Iterator[Offender]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """`always` holds at every moment; the others hold between systems, which hear of things one after the other, and
    are judged once nothing is under way. `nouns` are those of `Case.tally`.
    """

    name: str
    nouns: Sequence[str]
    always: bool
    check: Check


def invariant(name: str, *nouns: str, always: bool = False) -> Callable[[Check], Invariant]:
    def named(check: Check) -> Invariant:
        return Invariant(name=name, nouns=nouns, always=always, check=check)

    return named
