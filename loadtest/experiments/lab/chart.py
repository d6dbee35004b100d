"""How the charts look: one style, few colours that mean the same everywhere, names beside the lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# The colours of Okabe and Ito, which people who see few colours can tell apart.
BAD, WORSE, FAIR, OTHER, GOOD = "#d55e00", "#e69f00", "#0072b2", "#cc79a7", "#009e73"
GREY, FAULT = "#6b7280", "#fde8e4"

mpl.rcParams.update(
    {
        "svg.hashsalt": "holdfast",  # the same numbers, the same file
        "svg.fonttype": "path",  # it looks the same wherever it is read
        "font.family": "DejaVu Sans",
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": "#374151",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e5e7eb",
        "xtick.color": "#374151",
        "ytick.color": "#374151",
        "lines.linewidth": 2,
    }
)


def panels(title: str, rows: int, columns: int = 1, *, height: float, **options: Any) -> tuple[Figure, Sequence[Any]]:
    """A figure 10 inches wide with its panels in reading order."""
    figure = Figure(figsize=(10, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def shade_fault(axes: Axes, start: float, end: float, words: str = "") -> None:
    """Mark when the fault lasted, with `words` at its top."""
    axes.axvspan(start, end, color=FAULT, linewidth=0, zorder=0)
    if words:
        axes.text(
            (start + end) / 2,
            0.97,
            words,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=9,
            color="#9a3412",
        )


def mark(axes: Axes, moment: float, words: str) -> None:
    """A moment, with its name at the top."""
    axes.axvline(moment, color="#9a3412", linewidth=1.2, linestyle="--")
    axes.text(moment, 0.97, f" {words}", transform=axes.get_xaxis_transform(), va="top", fontsize=9, color="#9a3412")


def save(figure: Figure, path: Path) -> None:
    FigureCanvasSVG(figure)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
