"""The experiments: each has its page with the numbers of one run, and fails if its pattern does no better than none.

The runs themselves are `make lab`.
"""

import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from experiments import EXPERIMENTS
from experiments.lab import pages
from experiments.lab.results import Results
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]

PATTERN_OF = {"overload": "jobs"}
"""The pattern of each experiment that is not named like its pattern."""

OURS_AND_NAIVE = {
    "rate_limiting": [("GCRA", "none"), ("GCRA", "fixed window")],
    "jobs": [("leases", "in-process task"), ("leases, one transaction", "leases")],
    "retries": [("budget + deadline", "naive"), ("budget + deadline", "full jitter"), ("budget + deadline", "budget")],
    "circuit_breaker": [("breaker", "nothing"), ("bulkhead", "nothing"), ("both", "bulkhead"), ("both", "breaker")],
    "overload": [(f"{times}×, by time", f"{times}×, accepts all") for times in (2, 5, 10)],
    "caching": [(ours, "naive") for ours in ("single flight", "XFetch", "stale while revalidating")],
}
"""In the tables of the pages: with the pattern, and what it is compared with."""


def published(name: str) -> Results:
    return Results.read(pages.numbers(name))


def rows_of(results: Results) -> dict[str, Mapping[str, Any]]:
    return {row["arm"]: row for table in results.tables.values() for row in table if "arm" in row}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_named_like_its_pattern_and_each_page_leads_to_the_other(name: str) -> None:
    named = PATTERN_OF.get(name, name)
    pattern = (ROOT / "docs" / "patterns" / f"{named}.md").read_text()
    page = (ROOT / "docs" / "lab" / f"{name}.md").read_text()
    assert f"](../lab/{name}.md)" in pattern
    assert f"](../patterns/{named}.md)" in page
    assert f"]({name}.md)" in (ROOT / "docs" / "lab" / "README.md").read_text()
    assert f"`make lab-{name}`" in page


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_page_shows_the_run_whose_numbers_are_beside_it(name: str) -> None:
    page = (ROOT / "docs" / "lab" / f"{name}.md").read_text()
    results = published(name)
    assert results.experiment == name
    assert results.hold
    assert page == pages.with_results(page, results)
    assert (ROOT / "docs" / "lab" / f"{name}.svg").is_file()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_chart_can_be_drawn_from_the_numbers(name: str) -> None:
    assert isinstance(import_module(f"experiments.{name}").draw(published(name)), Figure)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_directions_hold_for_the_published_table(name: str) -> None:
    again = Results(experiment=name, seed=1)
    import_module(f"experiments.{name}").assert_directions(rows_of(published(name)), again)
    assert again.hold


@pytest.mark.parametrize(
    ("name", "ours", "naive"), [(name, *pair) for name, pairs in OURS_AND_NAIVE.items() for pair in pairs]
)
def test_a_run_fails_when_the_pattern_does_no_better_than_what_it_is_compared_with(
    name: str, ours: str, naive: str
) -> None:
    rows = rows_of(published(name))
    again = Results(experiment=name, seed=1)
    import_module(f"experiments.{name}").assert_directions(rows | {ours: rows[naive]}, again)
    assert not again.hold


@pytest.mark.parametrize(
    ("what", "no_better"),
    [("goodput, last 5 s, %", 20.0), ("attempts per call, last 5 s", 4.0), ("recovered after, s", None)],
)
def test_each_promise_of_the_retries_is_asserted_by_itself(what: str, no_better: float | None) -> None:
    rows = rows_of(published("retries"))
    ours = "budget + deadline"
    assert what in rows[ours]
    again = Results(experiment="retries", seed=1)
    import_module("experiments.retries").assert_directions(rows | {ours: {**rows[ours], what: no_better}}, again)
    assert [check.holds for check in again.checks].count(False) == 1


def test_an_experiment_that_does_not_exist_is_named() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "experiments", "luck"],
        cwd=ROOT / "loadtest",
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 2
    assert "there is no experiment luck" in asked.stderr
