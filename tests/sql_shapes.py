"""What a statement looks like, as far as tests forbid it."""

import re
from collections.abc import Iterator
from functools import cache

_COMMENT = re.compile(r"--[^\n]*")
_LOCKS = re.compile(r"\bFOR\s+(NO\s+KEY\s+)?UPDATE\b", re.IGNORECASE)
_CHANGES = re.compile(r"(?<!DO )\b(UPDATE|DELETE)\b", re.IGNORECASE)
_PICKS = re.compile(r"\bLIMIT\b|\bLOCKED_ROWS\b", re.IGNORECASE)
_ARRAY = re.compile(r"\bARRAY\s*$", re.IGNORECASE)
_CTE = re.compile(r"\b(\w+)\s+AS(?P<once>\s+MATERIALIZED)?\s*$", re.IGNORECASE)


@cache
def repeated_picks(sql: str) -> tuple[str, ...]:
    """The sub-selects by which a statement picks rows to change, and which the planner may work out for each row.

    It works these out once: what stands inside `ARRAY(…)`, and a WITH query that is MATERIALIZED or locks its rows. It
    may join anything else, and an inner side of a nested loop is worked out again for each outer row.
    """
    sql = _LOCKS.sub("LOCKED_ROWS", _COMMENT.sub("", sql))
    if not _CHANGES.search(sql):
        return ()
    return tuple(
        group for before, group in _groups(sql) if _PICKS.search(_own(group)) and not _is_once(sql, before, group)
    )


def _groups(sql: str) -> Iterator[tuple[str, str]]:
    """Each pair of parentheses with what stands before it."""
    opened: list[int] = []
    for place, character in enumerate(sql):
        if character == "(":
            opened.append(place)
        elif character == ")":
            start = opened.pop()
            yield sql[:start], sql[start + 1 : place]


def _own(group: str) -> str:
    """Without what stands in parentheses inside."""
    while (shorter := re.sub(r"\([^()]*\)", "", group)) != group:
        group = shorter
    return group


def _is_once(sql: str, before: str, group: str) -> bool:
    if _ARRAY.search(before.rstrip(" \n(")):  # SQLAlchemy writes two pairs
        return True
    if not (query := _CTE.search(before)):
        return False
    name = query[1]
    in_arrays = len(re.findall(rf"ARRAY\s*\(\s*SELECT\s+\w+\s+FROM\s+{name}\s*\)", sql, re.IGNORECASE))
    is_only_in_arrays = in_arrays == len(re.findall(rf"\b{name}\b", sql)) - 1
    return bool(query["once"]) or "LOCKED_ROWS" in _own(group) or is_only_in_arrays
