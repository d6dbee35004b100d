"""`docs/reference/chart.md`: every value of the chart with its default and the words beside it in values.yaml.

A value is described by the comment on its line, a part of the values by the comment above its first line. So the words
are where somebody changes the value, and nowhere else.
"""
# ruff: noqa: INP001  beside generate.py, which writes the page

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

_KEY = re.compile(r"\s*(?P<key>[A-Za-z][\w-]*):(?P<rest>.*)")


class Value(NamedTuple):
    """A value of the file: its dotted path, what it is, and the comment on its line."""

    path: str
    value: Any
    comment: str


class Part(NamedTuple):
    """What the file says under one key of its top level; `words` are the lines above it."""

    name: str
    words: str
    values: Sequence[Value]


def parts_of(path: Path) -> list[Part]:
    """The parts of a values file, in its order."""
    text = path.read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    found = list(_lines(text.splitlines()))
    parts = []
    for name, words in ((line.path, line.above) for line in found if "." not in line.path):
        below = [line for line in found if f"{line.path}.".startswith(f"{name}.")]
        values = [
            Value(line.path, _at(content, line.path), line.comment)
            for line in below
            if not any(other.path.startswith(f"{line.path}.") for other in below)
        ]
        parts.append(Part(name, words, values))
    return parts


class _Line(NamedTuple):
    path: str
    comment: str
    above: str


def _lines(lines: Sequence[str]) -> Iterator[_Line]:
    """Every line that names a key in block style, but those inside of a list, which is one value."""
    above: list[str] = []
    folders: list[tuple[int, str]] = []
    in_list: int | None = None  # the indent of its dashes
    for line in lines:
        indent = len(line) - len(line.lstrip())
        in_list = indent if line.lstrip().startswith("- ") else in_list if in_list and indent > in_list else None
        if in_list is not None:
            continue
        if line.startswith("#"):
            above.append(line.removeprefix("#").strip())
        elif (match := _KEY.fullmatch(line)) is None:
            above = [] if not line else above
        else:
            folders = [(depth, key) for depth, key in folders if depth < indent] + [(indent, match["key"])]
            comment = match["rest"].partition("  # ")[2]
            yield _Line(".".join(key for _, key in folders), comment, " ".join(above))
            above = []


def _at(content: Any, path: str) -> Any:
    for key in path.split("."):
        content = content[key]
    return content


def sections(chart: Path) -> Iterator[str]:
    for part in parts_of(chart / "values.yaml"):
        values = _services(part.values) if part.name == "services" else part.values
        yield "\n\n".join(filter(None, (f"## {part.name}", part.words, _table(values, "Default"))))
    for file in sorted(chart.glob("values-*.yaml")):
        changed = [value for part in parts_of(file) for value in part.values]
        yield f"## {file.name}\n\n{_table(changed, 'Value')}"


def _services(values: Sequence[Value]) -> list[Value]:
    """Those of the first service, and of the others what differs."""
    first = values[0].path.split(".")[1]
    known = {value.path.split(".", 2)[2]: value.value for value in values if value.path.split(".")[1] == first}
    return [
        value
        for value in values
        if (name := value.path.split(".", 2))[1] == first or name[2] not in known or known[name[2]] != value.value
    ]


def _table(values: Sequence[Value], what: str) -> str:
    rows = [f"| `{value.path}` | {_code(value.value)} | {_cell(value.comment)} |" for value in values]
    return "\n".join([f"| Value | {what} | What it is |", "|---|---|---|", *rows])


def _code(value: Any) -> str:
    if value in ("", [], {}):
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("\n...\n").strip()
    return f"`{text.replace('|', '\\|')}`"


def _cell(text: str) -> str:
    """`<` would begin a tag, of which a page shows nothing."""
    return text.replace("|", "\\|").replace("<", "&lt;")
