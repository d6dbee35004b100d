"""What a setting is made of: its type with both limits, its group, the rules it keeps with others.

Every type is bounded on both sides: what is far outside is a mistake of unit or of a digit, and is found at start.
"""

import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

type Timeout = Annotated[float, Field(gt=0, le=60)]
"""Seconds that a request or job waits for one thing. A minute outlives every caller; 5000 was meant as milliseconds."""
type Seconds = Annotated[float, Field(gt=0, le=3600)]
"""Seconds between things that recur, and of leases: an hour, beyond which a fault would go unnoticed for a day."""
type Period = Annotated[float, Field(gt=0, le=31_622_400)]
"""Seconds that something is kept: a year; what is kept longer belongs into an archive."""
type Port = Annotated[int, Field(ge=1, le=65_535)]
type Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.:-]+$")]
"""A host name (253 is DNS' limit) or an address."""
type ListenHost = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^(\*|[A-Za-z0-9_.:-]+)$")]
"""The same, or `*`: every address that the machine has, of IPv4 and of IPv6."""
type Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$")]
"""Without user and password: they belong into a secret file. 2048 is what every proxy takes."""
type Identifier = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^\s\x00-\x1f]+$")]
"""PostgreSQL cuts a longer name off at 63 bytes, and then means another one."""
type Secret = Annotated[SecretStr, Field(min_length=1, max_length=4096)]
"""Never empty. A longer one is a file that got there by mistake: the largest key in use is under 4 KiB."""
type ServiceSecret = Annotated[SecretStr, Field(min_length=32, max_length=256)]
"""What two services sign tokens with: at least 32 characters, 128 random bits in hex."""

RELOADED: Final[JsonDict] = {"reloaded": True}
"""Marks a setting whose new value is taken over while the process runs; every other one needs a restart."""


class Rule(NamedTuple):
    """What must hold between settings of one group: `left` is below (<), at most (≤) or different from (≠) `right`.

    A side is a setting, dotted from the group, or a sum of settings and numbers: `"drain_timeout + 5"`.
    """

    left: str
    sign: Literal["<", "≤", "≠"]
    right: str
    because: str

    @property
    def names(self) -> tuple[str, ...]:
        """The settings it is about."""
        return tuple(term for term in (*self.left.split(" + "), *self.right.split(" + ")) if not _is_number(term))

    def within(self, prefix: str) -> "Rule":
        """The same rule as seen from outside the group: `prefix` ends with a dot."""
        return self._replace(left=_prefixed(self.left, prefix), right=_prefixed(self.right, prefix))

    def holds(self, value_of: Callable[[str], float]) -> bool:
        compare = {"<": operator.lt, "≤": operator.le, "≠": operator.ne}[self.sign]
        return bool(compare(_sum(self.left, value_of), _sum(self.right, value_of)))

    def __str__(self) -> str:
        words = {"<": "below", "≤": "at most", "≠": "different from"}[self.sign]
        return f"{self.left} must be {words} {self.right}, {self.because}"


def _is_number(term: str) -> bool:
    return term.replace(".", "", 1).isdigit()


def _prefixed(side: str, prefix: str) -> str:
    return " + ".join(term if _is_number(term) else f"{prefix}{term}" for term in side.split(" + "))


def _sum(side: str, value_of: Callable[[str], float]) -> float:
    return sum(float(term) if _is_number(term) else value_of(term) for term in side.split(" + "))


class Ruled(BaseModel):
    """Settings that keep `rules`; `settings` of a group further in are named with dots."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        broken = [str(rule) for rule in self.rules if not rule.holds(partial(_value_of, self))]
        if broken:
            raise PydanticCustomError(BROKEN_RULE, "{rules}", {"rules": "; ".join(broken)})
        return self


BROKEN_RULE: Final = "broken_rule"
"""The type of the validation error that says which rules are broken."""


def _value_of(model: BaseModel, name: str) -> Any:
    return reduce(getattr, name.split("."), model)


class Group(Ruled):
    """A group of settings: immutable, a name it does not know is an error, and errors do not quote values."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
