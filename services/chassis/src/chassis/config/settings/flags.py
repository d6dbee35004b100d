"""Feature flags: switches of single features, which operators change while a process runs.

A service declares its flags in one class, each with an owner and the last day of its life:

    class OrdersFlags(Flags):
        new_prices: Flag = flag("Show the new prices.", owner="sales", until=date(2027, 3, 31))

A flag has two settings, `flags.new_prices.share` and `flags.new_prices.principals`. Both come from the same layers
(files, environment, command line) as every other setting, and a running process applies changes of both.
`chassis.flags.is_on` evaluates a flag for one request.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any

from pydantic import Field, PrivateAttr

from chassis.config.settings.callers import PrincipalName
from chassis.config.settings.model import RELOADED, Group


class Flag(Group):
    """A flag is on for the named principals and for a share of all subjects (principals, or smaller units such as
    orders). By default the flag is off.
    """

    share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the subjects for which the flag is on: 0 for none, 1 for all. A larger share only adds "
        "subjects.",
        json_schema_extra=RELOADED,
    )
    principals: tuple[PrincipalName, ...] = Field(
        (),
        max_length=100,
        description="JSON list of the principals for which the flag is on, whatever the share is.",
        json_schema_extra=RELOADED,
    )
    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """The name under which a `Flags` class declares the flag."""
        return self._name


@dataclass(frozen=True, slots=True)
class Declaration:
    """A declared flag. `until` is the last day on which the flag may exist: its code must be deleted by then."""

    name: str
    owner: str
    until: date
    description: str

    def is_expired(self, today: date) -> bool:
        return today > self.until


def flag(description: str, *, owner: str, until: date) -> Flag:
    """Declare a flag in a `Flags` class. The team `owner` deletes the flag and its code by the day `until`."""
    return Field(
        default_factory=Flag,
        description=description,
        json_schema_extra={"owner": owner, "until": until.isoformat()},
    )


class Flags(Group):
    """The flags of a service. A derived class declares each flag with `flag`."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        undeclared = set(cls.model_fields) - {declared.name for declared in declarations(cls)}
        if undeclared:
            raise TypeError(f"{cls.__name__}: declare with flag(…), with an owner and a date: {sorted(undeclared)}")

    def model_post_init(self, context: Any, /) -> None:
        """Give each flag its name."""
        del context
        for name in type(self).model_fields:
            getattr(self, name)._name = name  # noqa: SLF001  only this line sets the name of a flag


def declarations(flags: type[Flags]) -> list[Declaration]:
    """The declared flags, in the order of their declaration."""
    return [
        Declaration(name, str(life["owner"]), date.fromisoformat(str(life["until"])), field.description or "")
        for name, field in flags.model_fields.items()
        if isinstance(life := field.json_schema_extra, dict) and life.keys() >= {"owner", "until"}
    ]
