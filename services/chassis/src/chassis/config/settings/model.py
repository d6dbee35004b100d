"""The parts that settings are made of: types with limits, groups, and rules between settings.

Every type has a lower and an upper limit, because an extreme value is usually a wrong unit or a typing error. The
process does not start with a value outside the limits.
"""

import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

type Timeout = Annotated[float, Field(gt=0, le=60)]
"""Seconds that a request or job waits for one thing. The upper limit is a minute, because no caller waits longer. A
value such as 5000 is probably meant as milliseconds.
"""
type Seconds = Annotated[float, Field(gt=0, le=3600)]
"""Seconds of a recurring interval or a lease. The upper limit is an hour, because a fault may stay unnoticed for a
whole interval.
"""
type Period = Annotated[float, Field(gt=0, le=31_622_400)]
"""Seconds that data is retained. The upper limit is a year, because older data belongs in an archive."""
type Port = Annotated[int, Field(ge=1, le=65_535)]
type Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.:-]+$")]
"""A host name (DNS allows 253 characters) or an IP address."""
type ListenHost = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^(\*|[A-Za-z0-9_.:-]+)$")]
"""A `Host`, or `*` for every IPv4 and IPv6 address of the machine."""
type Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$")]
"""A URL without user and password, because those belong in a secret file. A URL has at most 2048 characters, because
every proxy accepts that length.
"""
type Identifier = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^\s\x00-\x1f]+$")]
"""The name of a PostgreSQL object. PostgreSQL truncates a longer name to 63 bytes, and the truncated name could refer
to another object.
"""
type Secret = Annotated[SecretStr, Field(min_length=1, max_length=4096)]
"""A secret that is not empty. A value above 4 KiB probably comes from the wrong file, because no usual key is that
long.
"""
type ServiceSecret = Annotated[SecretStr, Field(min_length=32, max_length=256)]
"""A secret that two services share. The calling service signs tokens with this secret, and the called service verifies
the tokens with the same secret. The minimum of 32 characters is 128 random bits in hex.
"""

RELOADED: Final[JsonDict] = {"reloaded": True}
"""Marks a setting whose new value takes effect while the process runs. Every other setting needs a restart."""


class Rule(NamedTuple):
    """A relation between settings of one group: `left` is below (<), at most (≤) or different from (≠) `right`.

    Each side is the dotted name of a setting inside the group, or a sum of settings and numbers: `"drain_timeout + 5"`.
    """

    left: str
    sign: Literal["<", "≤", "≠"]
    right: str
    because: str

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that the rule mentions."""
        return tuple(term for term in (*self.left.split(" + "), *self.right.split(" + ")) if not _is_number(term))

    def within(self, prefix: str) -> "Rule":
        """The same rule with `prefix`, such as `http.`, before the name of each setting. A group's rule uses names
        inside the group, such as `port`; with the prefix, the rule also applies to the settings that contain the group
        (`http.port`).
        """
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
    """A model of settings that checks its `rules`. A rule refers to a setting of an inner group by its dotted name."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [str(rule) for rule in self.rules if not rule.holds(partial(_value_of, self))]
        if broken:
            raise PydanticCustomError(BROKEN_RULE, "{rules}", {"rules": "; ".join(broken)})
        return self


BROKEN_RULE: Final = "broken_rule"
"""The type of the validation error that lists the broken rules."""


def rules_of(model: type[Ruled], prefix: str = "") -> list[Rule]:
    """Every rule of the model and of its groups, with the full dotted names of the settings."""
    found = [rule.within(prefix) for rule in model.rules]
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Ruled):
            found += rules_of(inner, f"{prefix}{name}.")
    return found


def _value_of(model: BaseModel, name: str) -> Any:
    return reduce(getattr, name.split("."), model)


class Group(Ruled):
    """A group of settings. A group is immutable and refuses unknown names. Its validation errors do not quote values,
    which may be secrets.

    A group's own validator is built only when it is used: the validator of the service's settings contains the
    validators of all groups.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)
