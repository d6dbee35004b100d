"""No text takes more than linear time: each regular expression of the tree, and each loop of ours over a text, is given
texts that double until a quadratic one is seen.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from growth import superlinear
from pumping import attacks
from regular_expressions import Found, found_in, found_in_module
from scanners import OUR_OWN, PIECES, SCANNERS, looping_functions

ROOT = Path(__file__).parents[2]
FOLDERS = ("services", "infra", "loadtest")

CHECKOV_REASONS = ROOT / "charts/checkov.yaml"
ELSEWHERE = {"infra/checkov/check.py": [entry["objects"] for entry in yaml.safe_load(CHECKOV_REASONS.read_text())]}
"""Patterns whose text is not in the module that uses them."""

FOUND = [one for folder in FOLDERS for one in found_in(ROOT, folder)]
PATTERNS = {(one.pattern, one.flags): one.place for one in FOUND if one.pattern is not None} | {
    (pattern, 0): module for module, patterns in ELSEWHERE.items() for pattern in patterns
}


def slow_attack(pattern: str, flags: int) -> str | None:
    """A text that the pattern takes more than linear time for, if one is found."""
    compiled = re.compile(pattern, flags)

    def find_all(text: str) -> None:
        for _ in compiled.finditer(text):
            pass

    for made_of, text in attacks(pattern, flags):
        for work in (find_all, compiled.fullmatch):
            if growth := superlinear(work, text):
                return f"{made_of}: {growth}"
    return None


@pytest.mark.parametrize(("pattern", "flags"), PATTERNS, ids=[*PATTERNS.values()])
def test_no_regular_expression_takes_more_than_linear_time(pattern: str, flags: int) -> None:
    assert slow_attack(pattern, flags) is None


@pytest.mark.parametrize("name", SCANNERS)
def test_no_scanner_takes_more_than_linear_time(name: str) -> None:
    for piece in PIECES:
        assert superlinear(SCANNERS[name], repeated(piece)) is None, piece


def repeated(piece: str) -> Callable[[int], str]:
    return lambda size: piece * (size // len(piece))


def test_every_pattern_of_the_tree_is_known() -> None:
    unknown = {one.place.rpartition(":")[0] for one in FOUND if one.pattern is None}
    assert unknown == ELSEWHERE.keys()


def test_every_loop_over_a_text_is_a_scanner_or_reads_our_own() -> None:
    listed = [*SCANNERS, *OUR_OWN]
    found = [name for folder in FOLDERS for name in looping_functions(ROOT, folder)]
    assert [name for name in found if not any(name.endswith(known) for known in listed)] == []
    assert [known for known in OUR_OWN if not any(name.endswith(known) for name in found)] == []


@pytest.mark.parametrize(
    "slow",
    [
        r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
        r"([\w.+-])[\w.+-]*@([\w-]+\.[\w.-]*\w)",
        *(r"(a+)+$", r"(a|a)*b", r"a*b", r"\s+$", r"(.*),(.*);", r"[a-z]+://x", r"(?:a?b?)*c", r"(?<=x)[^y]*y"),
    ],
)
def test_a_slow_pattern_is_found(slow: str) -> None:
    assert slow_attack(slow, 0) is not None


def test_patterns_are_found_compiled_as_literals_passed_on_and_given_to_pydantic() -> None:
    source = """
import re
PART = "[a-z]+"
A = re.compile(rf"^{PART}@{PART}$", re.IGNORECASE)
B = Field(pattern=r"^b$")

def text(name: str, pattern: str) -> bool:
    return re.fullmatch(pattern, name) is not None

text("c", r"c+")

def d(other: str) -> bool:
    return bool(re.search("d" "d", other)) and bool(re.search(made(), other))
"""
    assert {(one.pattern, one.flags) for one in found_in_module("module.py", source)} == {
        ("^[a-z]+@[a-z]+$", re.IGNORECASE),
        *(("^b$", 0), ("c+", 0), ("dd", 0), (None, 0)),
    }
    assert [*found_in_module("m.py", 'import re\nre.match("a", "b")')] == [Found("m.py:2", "a")]
