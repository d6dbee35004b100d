"""docs/reference/chart.md has every value of the chart, with the words that stand beside it."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from holdfast_local.settings import PROJECT

CHART = PROJECT / "charts" / "holdfast"
PAGE = (PROJECT / "docs" / "reference" / "chart.md").read_text()
FILE = """# About the file.

# Of the part,
# in two lines.
part:
  one: 1  # of one
  inner:
    two: {a: 1, b: [x]}  # of two
    list:  # of the list
      - first: 1
        second: 2
    three: "a | b"

# Of the next.
next: ""
"""


@pytest.fixture(scope="module")
def chart_page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chart_page", PROJECT / "docs" / "chart_page.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["chart_page"] = module
    spec.loader.exec_module(module)
    return module


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_a_value_has_the_words_of_its_line_and_a_part_those_above_it(chart_page: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(FILE)
    part, following = chart_page.parts_of(tmp_path / "values.yaml")
    assert (part.name, part.words) == ("part", "Of the part, in two lines.")
    assert [tuple(value) for value in part.values] == [
        ("part.one", 1, "of one"),
        ("part.inner.two", {"a": 1, "b": ["x"]}, "of two"),
        ("part.inner.list", [{"first": 1, "second": 2}], "of the list"),
        ("part.inner.three", "a | b", ""),
    ]
    assert (following.words, [value.path for value in following.values]) == ("Of the next.", ["next"])
    section = next(iter(chart_page.sections(tmp_path)))
    assert "| `part.inner.three` | `a \\| b` |  |" in section


def test_every_value_is_on_the_page() -> None:
    shown = set(re.findall(r"^\| `([\w.-]+)` \|", PAGE, re.MULTILINE))
    for path in leaves(yaml.safe_load((CHART / "values.yaml").read_text())):
        # The services have the same values, which are shown once.
        as_the_first = re.sub(r"^services\.[\w-]+\.", "services.orders.", path)
        assert any(f"{name}.".startswith(f"{it}.") for it in shown for name in (path, as_the_first)), path


def test_every_part_of_the_values_is_described(chart_page: ModuleType) -> None:
    for part in chart_page.parts_of(CHART / "values.yaml"):
        assert part.words or all(value.comment for value in part.values), part.name
