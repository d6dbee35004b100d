"""Loads SQL statements from `.sql` files, in which each statement has a name and a description."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import asyncpg

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DriverStatement:
    """A statement in the driver's notation: `$1` stands for the first parameter in `names`, `$2` for the second, …"""

    sql: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, sql: str) -> "DriverStatement":
        """Convert a statement with named parameters, such as `:queue`, to the driver's notation."""
        names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
        return cls(_PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", sql), names)

    async def fetch(self, connection: asyncpg.Connection, **values: object) -> list[asyncpg.Record]:
        """Run the statement and return its rows. The driver prepares each statement only once per connection."""
        rows: list[asyncpg.Record] = await connection.fetch(self.sql, *[values[name] for name in self.names])
        return rows


def load_statements(file: str, *, package: str) -> dict[str, str]:
    """The statements of `file` in `package`, by name and without their comments.

    A statement starts with the line `-- name: <name>`. The comment lines after this line describe the statement.
    """
    pieces = _NAME.split(resources.files(package).joinpath(file).read_text("utf-8"))
    return {name: _without_comments(sql) for name, sql in zip(pieces[1::2], pieces[2::2], strict=True)}


@cache
def load_driver_statements(file: str, *, package: str) -> Mapping[str, DriverStatement]:
    """The statements of `file` in `package`, by name, for `Session.fetch`. A process reads each file only once."""
    return {name: DriverStatement.of(sql) for name, sql in load_statements(file, package=package).items()}


def _without_comments(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if line and not line.startswith("--")).removesuffix(";")
