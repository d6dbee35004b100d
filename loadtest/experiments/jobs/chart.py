"""What became of the sign-ups, and for how long the oldest one has waited."""

from matplotlib.figure import Figure

from experiments.lab import chart
from experiments.lab.results import Results

COLOURS = {"in-process task": chart.BAD, "leases": chart.FAIR, "leases, one transaction": chart.GOOD}


def draw(results: Results) -> Figure:
    arms = results.series["arms"]
    figure, (bars, ages) = chart.panels("Background jobs: killed five times", 2, height=6.5, height_ratios=[1, 1.6])
    groups = {"lost": "lost", "twice": "welcomed twice"}
    for number, (name, found) in enumerate(arms.items()):
        places = [place + (number - 1) * 0.26 for place in range(len(groups))]
        drawn = bars.barh(places, [found[key] for key in groups], height=0.24, color=COLOURS[name], label=name)
        bars.bar_label(drawn, padding=4)
    bars.set_yticks(range(len(groups)), list(groups.values()))
    bars.invert_yaxis()
    bars.grid(visible=False, axis="y")
    bars.margins(x=0.1)
    bars.set_title(f"Of {results.series['signups']:,} sign-ups")
    for name, found in arms.items():
        moments, seconds = zip(*found["ages"], strict=True)
        ages.plot(moments, seconds, color=COLOURS[name], label=name)
    for moment in results.series["kills"]:
        chart.mark(ages, moment, "killed")
    ages.set_title("Seconds for which the oldest has waited for its welcome")
    ages.set_xlabel("seconds")
    ages.set_ylim(bottom=0)
    ages.set_xlim(left=0)
    figure.legend(*ages.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
