"""The chart of a run: where each arm's CPU goes, and how many orders a second reach their last mail."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.lab import chart

if TYPE_CHECKING:
    from __main__ import Found

_SIMULATORS = {"payment-provider", "mailbox", "customer-endpoint"}
_COLOURS = {
    "APIs": chart.FAIR,
    "workers": chart.GOOD,
    "PostgreSQL": chart.WORSE,
    "Valkey": chart.OTHER,
    "simulators": chart.GREY,
}


def kind_of(program: str) -> str:
    """What a program is, as one of the chart's colours."""
    if program in _SIMULATORS:
        return "simulators"
    servers = {"postgres": "PostgreSQL", "valkey": "Valkey"}
    return servers.get(program) or ("workers" if program.endswith("-worker") else "APIs")


def draw(found: Mapping[str, "Found"], path: Path) -> None:
    figure, (cpu, rates) = chart.panels("A whole order, from its POST to its last mail", 1, 2, height=3.6)
    names = list(found)
    ends = [0.0] * len(names)
    for kind, colour in _COLOURS.items():
        widths = [
            sum(ms for program, ms in one.milliseconds.items() if kind_of(program) == kind) for one in found.values()
        ]
        cpu.barh(names, widths, left=ends, color=colour, label=kind, height=0.6)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for number, end in enumerate(ends):
        cpu.text(end, number, f" {end:.0f}", va="center")
    cpu.set_title("CPU per order, ms")
    bars = rates.barh(names, [one.figures["orders_per_second"] for one in found.values()], color=chart.FAIR, height=0.6)
    rates.bar_label(bars, padding=4)
    rates.set_title("Orders per second to the last mail")
    for axes in (cpu, rates):
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
    figure.legend(*cpu.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    chart.save(figure, path)
