"""The backlog over time, for each load."""

from matplotlib.figure import Figure

from experiments.lab import chart
from experiments.lab.results import Results

COLOURS = {"accepts all": chart.BAD, "by time": chart.GOOD}


def draw(results: Results) -> Figure:
    backlogs = results.series["backlogs"]
    loads = list(dict.fromkeys(name.partition(", ")[0] for name in backlogs))
    figure, panels = chart.panels("Beyond capacity: seconds that the accepted work takes", 1, len(loads), height=4.2)
    for axes, load in zip(panels, loads, strict=True):
        chart.shade_fault(axes, 0, results.series["load_seconds"], f"{load} the capacity")
        for name, colour in COLOURS.items():
            moments, seconds = zip(*backlogs[f"{load}, {name}"], strict=True)
            axes.plot(moments, seconds, color=colour, label=name)
        axes.axhline(results.series["promise"], color=chart.GREY, linewidth=1.2, linestyle="--", label="promise")
        axes.set_ylim(0, 5 * results.series["promise"])
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
