"""Fields that stand on every line of a block, or of a task from then on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound_fields", default=_NOTHING)


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Put the fields on each line that is written inside the block."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def bind_to_task(**fields: Any) -> None:
    """Put the fields on each line that this task writes from now on, or a task that it starts."""
    _bound.set({**_bound.get(), **fields})


def bound_fields() -> Mapping[str, Any]:
    """What stands on each line here."""
    return _bound.get()
