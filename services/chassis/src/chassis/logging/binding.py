"""Fields that stand on every line of a block, or of a task from then on."""

from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound_fields", default=_NOTHING)


class bind:  # noqa: N801  used as `with bind(schedule=name):`
    """Put the fields on each line that is written inside the block."""

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token: Token[Mapping[str, Any]] = _bound.set({**_bound.get(), **self._fields})

    def __exit__(self, *_error: object) -> None:
        _bound.reset(self._token)


def bind_to_task(**fields: Any) -> None:
    """Put the fields on each line that this task writes from now on, or a task that it starts."""
    _bound.set({**_bound.get(), **fields})


def bound_fields() -> Mapping[str, Any]:
    """What stands on each line here."""
    return _bound.get()
