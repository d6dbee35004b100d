"""Replaces several round trips to the database by one: a single statement runs several INSERTs."""

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache

_PARAMETER = re.compile(r"\$(\d+)")


@lru_cache(maxsize=128)
def in_one_statement(statements: Sequence[tuple[str, int]]) -> str:
    """One SQL statement that runs all `statements`. The new statement takes the parameters of all `statements`, in the
    same order.

    Each item of `statements` is an INSERT with placeholders `$1`, `$2`, …, and the number of the INSERT's parameters,
    such as `("INSERT … VALUES ($1)", 1)`. An INSERT does not see the rows that the other INSERTs add.
    """
    before = itertools.accumulate((parameters for _, parameters in statements), initial=0)
    *others, last = [_shifted(sql, by) for (sql, _), by in zip(statements, before, strict=False)]
    if not others:
        return last
    named = ", ".join(f"insert_{number} AS ({sql})" for number, sql in enumerate(others))
    return f"WITH {named} {last}"


def _shifted(sql: str, by: int) -> str:
    """The statement with `by` added to the number of each placeholder. For example, if `by` is 2, `$1` becomes `$3`."""
    return _PARAMETER.sub(lambda found: f"${int(found[1]) + by}", sql)
