"""The sibling's latency, a panel per arm, with the breaker's state as a ribbon below."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.lab import chart
from experiments.lab.results import Results

COLOURS = {"nothing": chart.BAD, "breaker": chart.FAIR, "bulkhead": chart.OTHER, "both": chart.GOOD}
STATES = {"closed": "#bfe5d8", "half_open": "#f5d58a", "open": "#e08a6a"}
_TIMES = {0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s"}
_RIBBON = (0.0018, 0.0032)
"""Where it lies, in seconds of the axis of latencies."""


def draw(results: Results) -> Figure:
    series = results.series
    figure, axes_of = chart.panels(
        "Circuit breaker and bulkhead: a healthy dependency beside one that hangs",
        2,
        2,
        height=6.5,
        sharex=True,
        sharey=True,
    )
    for axes, (name, found) in zip(axes_of, series["arms"].items(), strict=True):
        due, seconds = zip(*found["healthy"], strict=True)
        axes.plot(due, seconds, ".", markersize=3, color=COLOURS[name])
        chart.shade_fault(axes, *series["fault"])
        axes.set_yscale("log")
        axes.set_ylim(0.0015, 20)
        axes.set_yticks(list(_TIMES), list(_TIMES.values()))
        axes.minorticks_off()
        axes.set_title(name)
        if name in {"breaker", "both"}:
            _ribbon(axes, found["states"], ends=max(due))
    for axes in axes_of[2:]:
        axes.set_xlabel("seconds")
        axes.set_xlim(left=0)
    for axes in axes_of[::2]:
        axes.set_ylabel("the sibling's answer took")
    legend = [Patch(color=colour, label=f"breaker {state.replace('_', '-')}") for state, colour in STATES.items()]
    legend.append(Patch(color=chart.FAULT, label="the other one hangs"))
    figure.legend(handles=legend, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _ribbon(axes: Axes, states: list[tuple[float, str]], *, ends: float) -> None:
    moments = [*(moment for moment, _ in states), ends]
    for (begins, state), until in zip(states, moments[1:], strict=True):
        axes.fill_between([max(0.0, begins), until], *_RIBBON, color=STATES[state], linewidth=0)
