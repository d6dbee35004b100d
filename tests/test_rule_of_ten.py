"""The rule of ten: each pattern's stem names its module, its page and its tests, and the README's table is that map."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATTERNS = (
    "logging",
    "pooling",
    "errors",
    "config",
    "rate_limiting",
    "jobs",
    "retries",
    "circuit_breaker",
    "caching",
    "webhooks",
)
SECTIONS = (
    "Problem",
    "What we do",
    "Defaults and units",
    "Try it",
    "What it does not do",
    "The version that goes wrong",
    "Source",
)


@pytest.mark.parametrize("stem", PATTERNS)
def test_each_pattern_has_a_module_a_page_and_tests_of_the_same_name(stem: str) -> None:
    for path in _map(stem):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("stem", PATTERNS)
def test_each_page_has_the_same_sections(stem: str) -> None:
    page = (ROOT / "docs" / "patterns" / f"{stem}.md").read_text()
    assert tuple(re.findall(r"^## (.+)$", page, re.MULTILINE)) == SECTIONS


def test_the_table_in_the_readme_is_this_map() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = [line for line in readme.splitlines() if "docs/patterns/" in line]
    assert [re.findall(r"\]\(([^)]+)\)", row) for row in rows] == [list(_map(stem)) for stem in PATTERNS]


def test_no_link_inside_the_project_is_dead() -> None:
    folders = ("docs", "infra", "services")
    for page in [*ROOT.glob("*.md"), *(page for folder in folders for page in ROOT.glob(f"{folder}/**/*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def _map(stem: str) -> tuple[str, str, str]:
    module = f"services/chassis/src/chassis/{stem}"
    return (
        f"{module}/__init__.py" if (ROOT / module).is_dir() else f"{module}.py",
        f"docs/patterns/{stem}.md",
        f"tests/patterns/test_{stem}.py",
    )
