"""What is to happen once a transaction has committed happens then, once, and never otherwise."""

from contextlib import suppress
from functools import partial

import pytest
from chassis.pooling import Database, after_commit, log_after_commit
from sqlalchemy import text


async def test_what_is_given_to_after_commit_runs_once_and_only_after_the_commit(database: Database) -> None:
    happened: list[str] = []
    note = partial(happened.append, "told")
    async with database.transaction() as session:
        after_commit(session, note)
        after_commit(session, note)
        await session.execute(text("SELECT 1"))
        assert happened == []
    assert happened == ["told"]


async def test_what_is_given_to_after_commit_never_runs_after_a_rollback(database: Database) -> None:
    happened: list[str] = []
    with suppress(LookupError):
        async with database.transaction() as session:
            after_commit(session, partial(happened.append, "told"))
            raise LookupError
    assert happened == []


async def test_a_line_about_a_change_is_written_when_it_has_committed_and_never_otherwise(database: Database) -> None:
    lines: list[tuple[str, int]] = []

    def write(event: str, *, order: int) -> None:
        lines.append((event, order))

    async def change(order: int, failure: Exception | None) -> None:
        async with database.transaction() as session:
            log_after_commit(session, write, "order_moved", order=order)
            assert lines == []
            if failure:
                raise failure

    with pytest.raises(LookupError):
        await change(1, LookupError())
    assert lines == []
    await change(2, None)
    assert lines == [("order_moved", 2)]
