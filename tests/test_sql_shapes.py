"""No statement of ours picks the rows it changes by a sub-select that the planner may work out more than once."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sql_shapes import repeated_picks

ROOT = Path(__file__).parent.parent
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def in_files() -> Iterator[tuple[str, str]]:
    for file in sorted(ROOT.glob("services/*/src/**/*.sql")):
        pieces = _NAME.split(file.read_text("utf-8"))
        yield from ((f"{file.stem}.{name}", sql) for name, sql in zip(pieces[1::2], pieces[2::2], strict=True))


def in_code() -> Iterator[tuple[str, str]]:
    """Whatever string of a module changes rows."""
    for file in sorted(ROOT.glob("services/*/src/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "WHERE" in node.value:
                yield f"{file.relative_to(ROOT)}:{node.lineno}", node.value


STATEMENTS = dict([*in_files(), *in_code()])


def test_statements_are_found() -> None:
    wanted = {"jobs.prune", "inbox.take_replayable", "outbox.prune", "idempotency.prune", "orders.place"}
    assert wanted <= STATEMENTS.keys()


@pytest.mark.parametrize("place", STATEMENTS)
def test_rows_to_change_are_picked_once(place: str) -> None:
    assert repeated_picks(STATEMENTS[place]) == ()


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM job WHERE id IN (SELECT id FROM job ORDER BY id LIMIT :count FOR UPDATE SKIP LOCKED)",
        "DELETE FROM job WHERE id IN (SELECT id FROM job FOR NO KEY UPDATE SKIP LOCKED)",
        "UPDATE job SET status = 'ready' WHERE id = (SELECT id FROM job LIMIT 1 FOR UPDATE)",
        "WITH oldest AS (SELECT id FROM job ORDER BY id LIMIT 5) DELETE FROM job USING oldest WHERE job.id = oldest.id",
        "WITH oldest AS (SELECT id FROM job LIMIT 5) DELETE FROM job WHERE id IN (SELECT id FROM oldest)",
        "DELETE FROM job USING (SELECT id FROM job LIMIT 5) AS oldest WHERE job.id = oldest.id",
    ],
)
def test_what_may_be_worked_out_for_each_row_is_found(sql: str) -> None:
    assert repeated_picks(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM job WHERE id = ANY (ARRAY(SELECT id FROM job LIMIT 5 FOR UPDATE SKIP LOCKED))",
        "UPDATE orders SET status = 'x' WHERE id = any(array((SELECT id FROM orders LIMIT 5)))",
        "WITH old AS MATERIALIZED (SELECT id FROM job LIMIT 5) DELETE FROM job USING old WHERE job.id = old.id",
        "WITH old AS (SELECT id FROM job LIMIT 5) DELETE FROM job WHERE id = ANY (ARRAY(SELECT id FROM old))",
        "WITH old AS (SELECT id FROM job FOR UPDATE) UPDATE job SET status = 'x' FROM old WHERE job.id = old.id",
        "INSERT INTO job (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 2",
        "SELECT id FROM (SELECT id FROM job LIMIT 5) AS some FOR UPDATE",
    ],
)
def test_what_is_worked_out_once_may_stay(sql: str) -> None:
    assert repeated_picks(sql) == ()
