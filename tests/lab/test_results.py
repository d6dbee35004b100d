"""The lab's results: a run fails when a direction does not hold; what is written can be read and drawn again."""

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest
from experiments import __main__ as command
from experiments.lab.results import Check, Results, Theory, figure, text
from experiments.lab.stage import Stage
from matplotlib.figure import Figure


def results(**changed: object) -> Results:
    found = Results(experiment="some", seed=1, load="A load.")
    found.tables["Arms"] = [
        {"arm": "naive", "lost": 1234, "p99, s": 1.2345},
        {"arm": "ours", "lost": 0, "p99, s": None},
    ]
    found.expect("L = λW", 12, 11.04)
    found.check("ours loses nothing", holds=True)
    found.note_machine(seconds=2.04, latest=0.0123)
    for name, value in changed.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    ("checks", "hold"),
    [
        ([], False),
        ([Check(holds=True, words="a")], True),
        ([Check(holds=True, words="a"), Check(holds=False, words="b")], False),
    ],
    ids=["an experiment that asserts nothing", "all hold", "one does not"],
)
def test_results_hold_if_something_was_asserted_and_all_of_it_holds(*, checks: list[Check], hold: bool) -> None:
    assert results(checks=checks).hold is hold


def test_what_is_written_is_read_again_as_it_was(tmp_path: Path) -> None:
    found = results(series={"seconds": [1, 2.5]})
    found.write(tmp_path / "results.json")
    again = Results.read(tmp_path / "results.json")
    assert again == found
    assert again.theory == [Theory("L = λW", "12", "11.0")]
    assert len((tmp_path / "results.json").read_text().splitlines()) < 20, "a series is one line"


def test_what_is_printed_has_the_table_the_theory_and_the_verdicts() -> None:
    lines = results(checks=[Check(holds=True, words="good"), Check(holds=False, words="bad")]).printed().splitlines()
    assert lines == [
        "A load.",
        "",
        "Arms",
        "arm     lost  p99, s",
        "naive  1,234    1.23",
        "ours       0       –",
        "",
        "what    predicted  measured",
        "L = λW         12      11.0",
        "",
        "✔ good",
        "✘ bad",
    ]


def test_a_page_says_how_busy_the_machine_was() -> None:
    page = results().markdown()
    assert "| naive | 1,234 | 1.23 |" in page
    assert "the worst call was made 12 ms late. Seed 1." in page


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), ("word", "word"), (12345, "12,345"), (0.123, "0.12"), (12.34, "12.3"), (123.4, "123")],
)
def test_figures_have_as_many_digits_as_mean_something(value: float | str | None, said: str) -> None:
    assert text(value) == said


def test_a_dash_is_no_figure_that_could_be_compared() -> None:
    with pytest.raises(TypeError, match="recovered of naive is None"):
        figure({"naive": {"arm": "naive", "recovered": None}}, "naive", "recovered")


@pytest.mark.parametrize("hold", [True, False])
def test_the_command_fails_when_a_direction_does_not_hold_and_leaves_numbers_and_chart(
    *, hold: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(_: Stage, found: Results) -> float:
        found.tables["Arms"] = [{"arm": "ours"}]
        found.check("a direction", holds=hold)
        return 0.0

    @asynccontextmanager
    async def no_servers(_: Path) -> AsyncIterator[None]:
        yield None

    experiment = ModuleType("experiments.some")
    experiment.run, experiment.draw = run, lambda _: Figure()
    monkeypatch.setitem(sys.modules, "experiments.some", experiment)
    monkeypatch.setattr(command, "opened_stage", no_servers)
    monkeypatch.setattr(command, "PROJECT", tmp_path)
    options = argparse.Namespace(seed=1, publish=False, redraw=False)
    assert command.conduct("some", options) is hold
    assert f"{'✔' if hold else '✘'} a direction" in capsys.readouterr().out
    folder = tmp_path / ".holdfast" / "lab" / "some"
    assert Results.read(folder / "results.json").hold is hold
    assert (folder / "chart.svg").read_text().startswith("<?xml")
