"""Goodput and attempts over time, a line per arm."""

from typing import Any

from matplotlib.figure import Figure

from experiments.lab import chart
from experiments.lab.results import Results

COLOURS = {
    "no retries": chart.GREY,
    "naive": chart.BAD,
    "full jitter": chart.WORSE,
    "budget": chart.FAIR,
    "budget + deadline": chart.GOOD,
}


def draw(results: Results) -> Figure:
    series = results.series
    figure, (goodput, attempts) = chart.panels("Retries: after the overload", 2, height=6.5, sharex=True)
    for name, values in series["seconds"].items():
        seconds = [second + 0.5 for second in range(len(values["goodput"]))]
        style: dict[str, Any] = {"color": COLOURS[name], "label": name}
        goodput.plot(seconds[:-1], values["goodput"][:-1], **style)
        attempts.plot(seconds[:-1], values["attempts"][:-1], **style)
    for axes in (goodput, attempts):
        chart.shade_fault(axes, *series["fault"])
    goodput.set_title("Calls answered, % of those made in that second")
    goodput.set_ylim(-3, 105)
    attempts.set_title("Attempts per second at the server")
    attempts.set_ylim(bottom=0)
    attempts.axhline(series["capacity"], color="#111827", linewidth=1, linestyle="--")
    attempts.text(0.2, series["capacity"] + 5, "capacity", fontsize=9, color="#111827")
    attempts.set_xlabel("seconds")
    attempts.set_xlim(0, len(seconds) - 1)
    goodput.text(sum(series["fault"]) / 2, 101, "a fifth of the capacity", ha="center", va="top", color="#9a3412")
    down = [name for name, values in series["seconds"].items() if max(values["goodput"][-4:-1]) < 5]  # noqa: PLR2004
    if down:  # their lines lie upon each other
        goodput.text(series["fault"][1] + 0.3, 4, f"{', '.join(down)}: none answered", va="bottom")
    figure.legend(*goodput.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure
