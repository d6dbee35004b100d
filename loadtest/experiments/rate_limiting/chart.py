"""Who is served, a panel per limiter, and what each algorithm admits around a boundary."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import chart
from experiments.lab.results import Results

TITLES = {"none": "no limiter", "fixed window": "fixed window in Redis", "GCRA": "GCRA"}


def draw(results: Results) -> Figure:
    series = results.series
    figure, axes_of = chart.panels("Rate limiting: one abuser and nine tenants", 2, 2, height=7)
    *served, boundary = axes_of
    for axes, (name, found) in zip(served, series["served"].items(), strict=True):
        seconds = [second + 0.5 for second in range(len(found["tenants"]))]
        areas = axes.stackplot(
            seconds,
            found["tenants"],
            found["abuser"],
            colors=[chart.GOOD, chart.BAD],
            labels=["nine tenants", "abuser"],
            linewidth=0,
            alpha=0.85,
        )
        wanted = axes.axhline(series["asked"], color="#111827", linewidth=1.2, linestyle=":", label="tenants ask for")
        axes.set_ylim(0, 1.6 * series["capacity"])
        axes.set_xlim(0.5, seconds[-1])
        axes.set_title(f"{TITLES[name]}: served a second")
        axes.set_xlabel("seconds")
        chart.mark(axes, series["killed"], "Redis killed")
    figure.legend(handles=[*areas, wanted], loc="outside lower center", ncols=3, frameon=False)
    _boundary(boundary, series["boundary"])
    return figure


def _boundary(axes: Axes, found: dict[str, Any]) -> None:
    names = list(found["admitted"])
    counts = list(found["admitted"].values())
    limit = found["limit"]
    colours = [chart.GOOD if name.startswith("GCRA") else chart.GREY for name in names]
    bars = axes.barh(names, counts, color=[chart.BAD, *colours[1:]], height=0.65)
    axes.bar_label(bars, padding=4)
    axes.axvline(limit, color="#111827", linewidth=1.2, linestyle=":")
    axes.text(limit, -0.75, " limit", fontsize=9, va="center")
    axes.set_ylim(len(names) - 0.5, -1.1)
    axes.set_xlim(0, 2.2 * limit)
    axes.grid(visible=False, axis="y")
    axes.set_title("Admitted within 2 s around a boundary")
