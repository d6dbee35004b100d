"""The short form of `contextlib.contextmanager` behaves as the original: each test runs with both."""

import contextlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from chassis.fast import contextmanager as fast

type Make = Callable[[Callable[..., Generator[Any]]], Callable[..., AbstractContextManager[Any]]]

both = pytest.mark.parametrize("make", [contextlib.contextmanager, fast.contextmanager], ids=["contextlib", "fast"])


@both
def test_the_block_gets_the_yielded_value_and_ends_before_the_code_behind_it(make: Make) -> None:
    steps = []

    def around(value: int, *, more: int) -> Generator[int]:
        steps.append("begins")
        yield value + more
        steps.append("ends")

    with make(around)(1, more=2) as got:
        steps.append("runs")
    assert (got, steps) == (3, ["begins", "runs", "ends"])


@both
def test_an_error_of_the_block_is_raised_inside_the_generator_and_leaves_it_unchanged(make: Make) -> None:
    seen = []

    def around() -> Generator[None]:
        try:
            yield
        except LookupError as error:
            seen.append(error)
            raise

    lost = LookupError("lost")
    with pytest.raises(LookupError) as raised, make(around)():
        raise lost
    assert raised.value is lost
    assert seen == [lost]
    assert lost.__context__ is None


@both
def test_a_generator_may_handle_the_error(make: Make) -> None:
    def around() -> Generator[None]:
        with contextlib.suppress(LookupError):
            yield

    with make(around)():
        raise LookupError("lost")


@both
def test_a_generator_may_raise_another_error_instead(make: Make) -> None:
    def around() -> Generator[None]:
        try:
            yield
        except LookupError as error:
            raise ValueError("translated") from error

    lost = LookupError("lost")
    with pytest.raises(ValueError, match="translated") as raised, make(around)():
        raise lost
    assert raised.value.__cause__ is lost


@both
@pytest.mark.parametrize("error", [StopIteration("of the block"), KeyboardInterrupt(), GeneratorExit()])
def test_an_error_that_generators_use_themselves_passes_through(make: Make, error: BaseException) -> None:
    def around() -> Generator[None]:
        yield

    with pytest.raises(type(error)) as raised, make(around)():
        raise error
    assert raised.value is error


@both
def test_a_runtime_error_of_the_block_passes_through(make: Make) -> None:
    def around() -> Generator[None]:
        yield

    error = RuntimeError("of the block")
    error.__cause__ = LookupError("its cause")
    with pytest.raises(RuntimeError) as raised, make(around)():
        raise error
    assert raised.value is error
    assert isinstance(error.__cause__, LookupError)


@both
def test_the_traceback_of_an_error_ends_in_the_block(make: Make) -> None:
    def around() -> Generator[None]:
        yield

    def block() -> None:
        with make(around)():
            raise LookupError("lost")

    with pytest.raises(LookupError) as raised:
        block()
    assert [frame.name for frame in raised.traceback][-1] == "block"


@both
def test_a_generator_that_does_not_yield_fails_at_the_start(make: Make) -> None:
    def around() -> Generator[None]:
        yield from ()

    with pytest.raises(RuntimeError, match="yield"), make(around)():
        pass


def run(error: LookupError | None) -> None:
    if error is not None:
        raise error


@both
@pytest.mark.parametrize("error", [None, LookupError("lost")])
def test_a_generator_that_yields_twice_fails_and_is_closed(make: Make, error: LookupError | None) -> None:
    closed = []

    def around() -> Generator[None]:
        try:
            with contextlib.suppress(LookupError):
                yield
            yield
        finally:
            closed.append(True)

    with pytest.raises(RuntimeError), make(around)():
        run(error)
    assert closed == [True]


@both
def test_each_block_runs_a_new_generator(make: Make) -> None:
    def around() -> Generator[list[int]]:
        yield []

    block = make(around)
    with block() as outer, block() as inner:
        inner.append(1)
    assert outer == []


@both
def test_the_function_keeps_its_name_and_its_docstring(make: Make) -> None:
    def around() -> Generator[None]:
        """Runs the block."""
        yield

    made = make(around)
    assert (made.__name__, made.__doc__) == ("around", "Runs the block.")
