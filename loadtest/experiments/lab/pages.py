"""The pages of docs/lab: each shows the chart and the table of one run, whose raw numbers are beside it."""

from pathlib import Path

from matplotlib.figure import Figure

from experiments.lab import chart
from experiments.lab.results import Results

DOCS = Path(__file__).parents[3] / "docs" / "lab"
_BEGIN, _END = "<!-- results -->", "<!-- end of results -->"


def numbers(name: str) -> Path:
    return DOCS / f"{name}.json"


def publish(results: Results, figure: Figure) -> None:
    """Keep this run: its numbers, its chart, and its table on the page."""
    name = results.experiment
    results.write(numbers(name))
    chart.save(figure, DOCS / f"{name}.svg")
    page = DOCS / f"{name}.md"
    page.write_text(with_results(page.read_text("utf-8"), results), "utf-8")


def with_results(page: str, results: Results) -> str:
    """The page with what this run found between the two marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return (
        f"{before}{_BEGIN}\n{results.load}\n\n![chart]({results.experiment}.svg)\n\n{results.markdown()}\n{_END}{after}"
    )
