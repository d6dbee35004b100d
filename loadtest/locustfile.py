"""Load on the orders API, in scenarios (`scenarios/*.py`), judged at the end: exit code 1 when a limit is not kept.

    locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:8001 --keys .holdfast/secrets/clients

`make load` does this on the bare machine and asks the oracle afterwards. Elsewhere, such as in a Kubernetes Job, the
same is said by variables; an option goes before its variable:

    --host          LOCUST_HOST         base URL of the orders API; only a loopback address, unless:
    --allow-remote  LOAD_ALLOW_REMOTE   any host. It gets the load: have its owner's leave. (true)
    --keys          LOAD_KEYS           a file with a client's API key, or a folder of such files
    --scenario      LOAD_SCENARIO       steady (the default), burst
    --seconds       LOAD_SECONDS        how long; the scenario's stages are stretched or squeezed
    --orders        LOAD_ORDERS         how many orders at most
    --seed          LOAD_SEED           what is bought, and how long users think, follows from it

One process, without Locust's workers: the orders of all users are counted in it.
"""

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

import locust.stats
from locust import LoadTestShape, events
from loopback import is_loopback
from scenario import Tally, judge
from scenarios import SCENARIOS
from users import PATIENCE_SECONDS, REFUSALS, Browser, Buyer, Run, percentile

__all__ = ["Browser", "Buyer", "Stages"]  # what Locust looks for

# A table that fits on a page: the longest name is `/v1/orders/{order_id}/cancel (429)`.
locust.stats.STATS_NAME_WIDTH = 40
locust.stats.PERCENTILES_TO_REPORT = [0.5, 0.75, 0.9, 0.95, 0.99, 1.0]

_SEVERAL_PROCESSES = {"--processes", "--master", "--worker"}
_USAGE_ERROR = 2


class Stages(LoadTestShape):
    """The users of the scenario, all of a stage at once."""

    def tick(self) -> tuple[int, float] | None:
        run: Run = self.runner.environment.holdfast
        seconds = self.runner.environment.parsed_options.seconds or run.scenario.seconds
        stage = run.scenario.stage_at(self.get_run_time(), within=seconds)
        if stage is None:
            return None
        run.pause = stage.pause
        return stage.users, stage.users


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    parser.add_argument("--scenario", env_var="LOAD_SCENARIO", type=_scenario, default="steady", metavar="NAME")
    parser.add_argument("--keys", env_var="LOAD_KEYS", type=Path, metavar="PATH")
    parser.add_argument("--seconds", env_var="LOAD_SECONDS", type=_within(float, 1, 3600), metavar="NUMBER")
    parser.add_argument("--orders", env_var="LOAD_ORDERS", type=_within(int, 1, 100_000), metavar="NUMBER")
    parser.add_argument("--seed", env_var="LOAD_SEED", type=int, default=1, metavar="NUMBER")
    parser.add_argument("--allow-remote", env_var="LOAD_ALLOW_REMOTE", action="store_true")
    if _SEVERAL_PROCESSES & {word.partition("=")[0] for word in sys.argv}:  # now: Locust forks before it asks `prepare`
        parser.error("there is one process: the orders of all users are counted in it")


@events.init.add_listener
def prepare(environment: Any, **_: object) -> None:
    """Refuse what must not be started; leave what the users share where they find it."""
    options = environment.parsed_options
    if not environment.host:
        _refuse("--host or LOCUST_HOST is missing: the base URL of the orders API")
    if not options.allow_remote and not is_loopback(environment.host):
        _refuse(
            f"{environment.host} is not on this machine: --allow-remote or LOAD_ALLOW_REMOTE=true, if it may get load"
        )
    scenario = SCENARIOS[options.scenario]
    keys = _read_keys(options.keys)
    environment.holdfast = Run(
        scenario=scenario, keys=keys, seed=options.seed, orders=options.orders or scenario.orders
    )
    environment.events.quit.add_listener(lambda **_: _report(environment))
    environment.stop_timeout = 2 * PATIENCE_SECONDS  # an errand is finished: its order is followed to its end


@events.quitting.add_listener
def decide(environment: Any, **_: object) -> None:
    """The exit code, which Locust takes now."""
    run: Run = environment.holdfast
    environment.lines = list(judge(_tally(environment, run), run.scenario.limits))
    environment.process_exit_code = 0 if all(line.holds for line in environment.lines) else 1


def _report(environment: Any) -> None:
    """After Locust's table."""
    for line in environment.lines:
        print(line)


def _tally(environment: Any, run: Run) -> Tally:
    entries = environment.stats.entries.values()
    served = [entry for entry in entries if not entry.name.endswith(tuple(REFUSALS.values()))]
    refused = {
        status: sum(entry.num_requests for entry in entries if entry.name.endswith(ending))
        for status, ending in REFUSALS.items()
    }
    slowest = max(
        ((f"{e.method} {e.name}", e.get_response_time_percentile(0.95) / 1000) for e in served),
        key=lambda timed: timed[1],
        default=("no route", 0.0),
    )
    return Tally(
        answers=environment.stats.total.num_requests,
        failed=environment.stats.total.num_failures,
        given_up=run.given_up,
        exceptions=sum(seen["count"] for seen in environment.runner.exceptions.values()),
        rate_limited=refused[HTTPStatus.TOO_MANY_REQUESTS],
        overloaded=refused[HTTPStatus.SERVICE_UNAVAILABLE],
        slowest=slowest,
        placed=run.placed,
        unsettled=run.placed - len(run.settled),
        settled=percentile(run.settled, 0.95),
    )


def _read_keys(place: Path | None) -> list[str]:
    if place is None:
        _refuse("--keys or LOAD_KEYS is missing: a file with a client's API key, or a folder of such files")
    # A mounted Secret has its own files behind names that begin with dots.
    files = sorted(file for file in place.iterdir() if file.name[0] != ".") if place.is_dir() else [place]
    try:
        keys = [file.read_text("ascii").strip() for file in files]
    except (OSError, UnicodeDecodeError) as error:
        _refuse(f"a key cannot be read: {error}")
    if not keys or not all(keys):
        _refuse(f"{place} holds no key, or an empty one")
    return keys


def _scenario(name: str) -> str:
    if name not in SCENARIOS:
        raise ArgumentTypeError(f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    return name


def _within(kind: type[float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = kind(text)
        if not low <= number <= high:
            raise ArgumentTypeError(f"{text} is not between {low:,} and {high:,}")
        return number

    parse.__name__ = "number"  # argparse's word for what it cannot parse
    return parse


def _refuse(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)
    sys.exit(_USAGE_ERROR)
