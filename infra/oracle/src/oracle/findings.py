"""What an invariant comes to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offender:
    id: str
    problem: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What one invariant comes to; `counts` says what the verdict rests on."""

    name: str
    counts: str
    offenders: tuple[Offender, ...]

    @property
    def holds(self) -> bool:
        return not self.offenders
