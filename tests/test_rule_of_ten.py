"""The rule of ten: each pattern's stem names its module, its page and its tests, and the README's table is that map."""

import re
from pathlib import Path
from pkgutil import resolve_name

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

_FOLDERS = ("docs", "infra", "services")


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
    for page in _pages():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_every_module_source_file_and_test_that_a_page_names_is_there() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in _sources()}
    tests = {name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    for page in _pages():
        if page.name == "CHANGELOG.md":  # it may name code that is gone
            continue
        for name in re.findall(r"`([\w.][\w./-]*)[^`]*`", page.read_text()):
            said = f"{page.relative_to(ROOT)} names {name}"
            if re.fullmatch(r"[\w./-]+\.(?:py|sql|lua)", name):
                assert any(f"/{file}".endswith(f"/{name}") for file in files), said
            elif re.fullmatch(r"chassis(?:\.\w+)+", name):
                assert _exists(name), said
            elif re.fullmatch(r"test_\w+", name):
                assert name in tests, said


def _exists(name: str) -> bool:
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def _pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(page for folder in _FOLDERS for page in ROOT.glob(f"{folder}/**/*.md"))]


def _sources() -> list[Path]:
    return [path for folder in (*_FOLDERS, "loadtest", "tests") for path in ROOT.glob(f"{folder}/**/*.*")]


def _map(stem: str) -> tuple[str, str, str]:
    module = f"services/chassis/src/chassis/{stem}"
    return (
        f"{module}/__init__.py" if (ROOT / module).is_dir() else f"{module}.py",
        f"docs/patterns/{stem}.md",
        f"tests/patterns/test_{stem}.py",
    )
