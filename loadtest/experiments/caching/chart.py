"""Loads of the origin over time, a panel per arm: the spikes are the expiries."""

from matplotlib.figure import Figure

from experiments.lab import chart
from experiments.lab.load import per_second
from experiments.lab.results import Results

COLOURS = {
    "naive": chart.BAD,
    "single flight": chart.FAIR,
    "XFetch": chart.OTHER,
    "stale while revalidating": chart.GOOD,
}
STEP = 0.5


def draw(results: Results) -> Figure:
    series = results.series
    figure, axes_of = chart.panels(
        "Caching: how often the value of one hot key is computed", 4, height=7, sharex=True, sharey=True
    )
    for axes, (name, begun) in zip(axes_of, series["begun"].items(), strict=True):
        rates = per_second(begun, seconds=series["seconds"], step=STEP)
        counts = [round(rate * STEP) for rate in rates]
        moments = [(number + 0.5) * STEP for number in range(len(counts))]
        bars = axes.bar(moments, counts, width=STEP, color=COLOURS[name])
        axes.bar_label(bars, [count or "" for count in counts], padding=2, fontsize=9)
        axes.set_title(f"{name}: {len(begun)} in all")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        axes.minorticks_off()
        axes.set_ylim(0, 150)
    axes.set_xlabel(f"seconds; computations begun in each {STEP:g} s, log scale")
    axes.set_xlim(0, series["seconds"])
    return figure
