"""What each process of the platform costs until it is ready: processor time, which other work on the machine does not
stretch as it does the clock. Exit code 1 when a median is over the limit.
"""

import asyncio
import statistics
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import psutil
from holdfast_local.chaos_settings import passing_settings
from holdfast_local.platform import running_platform
from holdfast_local.supervisor import Change, Event

STARTS = 5
GATES = tomllib.loads((Path(__file__).parents[1] / "gates.toml").read_text("utf-8"))["start"]


async def measured() -> dict[str, float]:
    """Seconds of processor time by process, such as `orders-api`, of one start of the platform."""
    found: dict[str, float] = {}

    def note(event: Event) -> None:
        if event.change is Change.READY and event.program.endswith(("-api", "-worker")):
            times = psutil.Process(event.pid).cpu_times()
            found[event.program] = times.user + times.system

    with passing_settings() as settings:
        async with running_platform(settings, on_event=note):
            return found


def main() -> int:
    seconds = defaultdict[str, list[float]](list)
    for _ in range(STARTS):
        for process, used in asyncio.run(measured()).items():
            seconds[process].append(used)
    medians = {process: statistics.median(used) for process, used in seconds.items()}
    for process, median in medians.items():
        print(f"{process:<24} {median:5.2f} s of processor time until it is ready (median of {STARTS})")
    return int(any(median > GATES["cpu_seconds_at_most"] for median in medians.values()))


if __name__ == "__main__":
    sys.exit(main())
