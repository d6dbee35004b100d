"""SQL in files of its own: each statement is named and described there, and loaded by its name here."""

import re
from dataclasses import dataclass
from importlib import resources

import asyncpg

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DriverStatement:
    """A statement as the driver takes it: `$1`, `$2`, … stand for the parameters `names`, in this order."""

    sql: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, sql: str) -> "DriverStatement":
        """From one that names its parameters: `:queue`."""
        names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
        return cls(_PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", sql), names)

    async def fetch(self, connection: asyncpg.Connection, **values: object) -> list[asyncpg.Record]:
        """Run it; the driver prepares it the first time and keeps it with the connection."""
        rows: list[asyncpg.Record] = await connection.fetch(self.sql, *[values[name] for name in self.names])
        return rows


def load_statements(file: str, *, package: str) -> dict[str, str]:
    """The statements of `file`, which lies in `package`, by name and without their comments.

    A statement starts with the line `-- name: <name>`; the comment lines that follow say what it does.
    """
    pieces = _NAME.split(resources.files(package).joinpath(file).read_text("utf-8"))
    return {name: _without_comments(sql) for name, sql in zip(pieces[1::2], pieces[2::2], strict=True)}


def _without_comments(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if line and not line.startswith("--")).removesuffix(";")
