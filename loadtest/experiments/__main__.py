"""`python -m experiments [NAME …]` in loadtest: runs experiments, prints what they found, and ends with exit code 1 if
a direction did not hold. After Ctrl-C it prints what was found so far and ends with 130.

Results go to .holdfast/lab/NAME; `--publish` puts them on the pages of docs/lab as well.
"""

import argparse
import asyncio
import importlib
import sys
import time
from pathlib import Path
from types import ModuleType

from chassis.config.settings import LogSettings
from chassis.logging import configure_logging
from holdfast_local.stopping import EXIT_STOPPED, cancelled_by_signals

from experiments import EXPERIMENTS
from experiments.lab import chart, pages
from experiments.lab.results import Results
from experiments.lab.stage import opened_stage

PROJECT = Path(__file__).parents[2]
SEED = 1


async def run(experiment: ModuleType, results: Results, *, folder: Path) -> None:
    """One experiment, on servers of its own; its results are written into `folder`."""
    started = time.monotonic()
    async with opened_stage(folder) as stage:
        latest = await experiment.run(stage, results)
    results.note_machine(seconds=time.monotonic() - started, latest=latest)
    results.write(folder / "results.json")


def draw(experiment: ModuleType, results: Results, folder: Path) -> None:
    chart.save(experiment.draw(results), folder / "chart.svg")


def main() -> int:
    parser = argparse.ArgumentParser(prog="experiments", description="The lab: each pattern with it and without it.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPERIMENTS)}; none: all of them")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--publish", action="store_true", help="put what was found on the pages of docs/lab")
    parser.add_argument("--redraw", action="store_true", help="run nothing: draw the numbers that are on the pages")
    options = parser.parse_args()
    if unknown := set(options.names) - set(EXPERIMENTS):
        parser.error(f"there is no experiment {', '.join(sorted(unknown))}")
    names = options.names or EXPERIMENTS
    configure_logging(LogSettings(level="CRITICAL"))  # the dependencies' failures are the experiment, not news
    held = list[bool]()
    try:
        for name in names:
            held.append(conduct(name, options))
    except asyncio.CancelledError:
        print(f"\nStopped; {len(held)} of {len(names)} experiments were finished.", flush=True)
        return EXIT_STOPPED
    return 0 if all(held) else 1


def conduct(name: str, options: argparse.Namespace) -> bool:
    """Run the experiment and print what it found; whether every direction held."""
    experiment = importlib.import_module(f"experiments.{name}")
    folder = PROJECT / ".holdfast" / "lab" / name
    if options.redraw:
        results = Results.read(pages.numbers(name))
        pages.publish(results, experiment.draw(results))
        return results.hold
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    print(f"── {name} " + "─" * (70 - len(name)), flush=True)
    results = Results(experiment=name, seed=options.seed)
    try:
        asyncio.run(cancelled_by_signals(run(experiment, results, folder=folder)))
    except asyncio.CancelledError:
        print(results.printed())
        raise
    draw(experiment, results, folder)
    print(results.printed())
    print(f"\nChart and raw numbers: {folder.relative_to(PROJECT)}/ · {results.machine['seconds']:.0f} s\n", flush=True)
    if options.publish:
        pages.publish(results, experiment.draw(results))
    return results.hold


if __name__ == "__main__":
    sys.exit(main())
