"""SQL in files of its own: each statement is named and described there, and loaded by its name here."""

import re
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_statements(file: str) -> dict[str, str]:
    """The statements of `file`, which lies beside this module, by name and without their comments.

    A statement starts with the line `-- name: <name>`; the comment lines that follow say what it does.
    """
    pieces = _NAME.split(Path(__file__).with_name(file).read_text("utf-8"))
    return {name: _without_comments(sql) for name, sql in zip(pieces[1::2], pieces[2::2], strict=True)}


def _without_comments(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if line and not line.startswith("--")).removesuffix(";")
