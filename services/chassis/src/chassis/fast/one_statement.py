"""Replaces a round trip to the database for each of several INSERTs: one statement does them all."""

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache

_PARAMETER = re.compile(r"\$(\d+)")


@lru_cache(maxsize=128)
def in_one_statement(statements: Sequence[tuple[str, int]]) -> str:
    """One statement that does what all of these do; its parameters are theirs, one after the other.

    Each one is an INSERT in the driver's spelling, with the number of its parameters: `("INSERT … VALUES ($1)", 1)`.
    None of them sees the rows of another.
    """
    before = itertools.accumulate((parameters for _, parameters in statements), initial=0)
    *others, last = [_shifted(sql, by) for (sql, _), by in zip(statements, before, strict=False)]
    if not others:
        return last
    named = ", ".join(f"insert_{number} AS ({sql})" for number, sql in enumerate(others))
    return f"WITH {named} {last}"


def _shifted(sql: str, by: int) -> str:
    """The statement with `$1` as the parameter after the first `by` ones."""
    return _PARAMETER.sub(lambda found: f"${int(found[1]) + by}", sql)
