"""Load on the platform, in scenarios (`scenarios/*.py`), judged at the end: exit code 1 when a limit is not kept.

    locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:8001 --keys .holdfast/secrets/clients

`make load` does this on the bare machine and asks the oracle afterwards. Elsewhere, such as in a Kubernetes Job, the
same is said by variables; an option goes before its variable:

    --host            LOCUST_HOST          base URL of the orders API; only a loopback address, unless:
    --allow-remote    LOAD_ALLOW_REMOTE    any host. It gets the load: have its owner's leave. (true)
    --keys            LOAD_KEYS            a file with a client's API key, or a folder of such files
    --scenario        LOAD_SCENARIO        steady (the default), or another file of scenarios/
    --seconds         LOAD_SECONDS         how long; the scenario's stages are stretched or squeezed
    --rate            LOAD_RATE            how many times as many users come as the scenario says
    --orders          LOAD_ORDERS          how many orders at most
    --seed            LOAD_SEED            who comes when, and what is bought, follows from it
    --ingest          LOAD_INGEST          base URL of webhook-ingest, for scenarios that send webhooks
    --webhook-secret  LOAD_WEBHOOK_SECRET  a file with the payment provider's signing secret, for the same
    --provider        LOAD_PROVIDER        base URL of the simulated provider, for scenarios in which it goes wrong
    --history         LOAD_HISTORY         a file to which each answer about an order is appended, for the oracle

One process, without Locust's workers: the orders of all users are counted in it.
"""

import base64
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

import locust.stats
from arrivals import Arrivals
from judging import Tally, goodput, judge, percentile
from locust import events
from loopback import is_loopback
from report import add_verdict
from run import Run
from scenario import Scenario
from scenarios import SCENARIOS
from users import Abuser, Browser, BulkBuyer, Buyer, HastyBuyer, WebhookSender
from users.browsers import ABUSE
from users.client import REFUSALS
from users.webhooks import WEBHOOKS

__all__ = [
    "Abuser",
    "Arrivals",
    "Browser",
    "BulkBuyer",
    "Buyer",
    "HastyBuyer",
    "WebhookSender",
]  # what Locust looks for

# A table that fits on a page: the longest name is `/v1/webhooks/payment-provider (replayed)`.
locust.stats.STATS_NAME_WIDTH = 40
locust.stats.PERCENTILES_TO_REPORT = [0.5, 0.75, 0.9, 0.95, 0.99, 1.0]
locust.stats.HISTORY_STATS_INTERVAL_SEC = 1  # the charts' points: a stage may take ten seconds

_SEVERAL_PROCESSES = {"--processes", "--master", "--worker"}
_USAGE_ERROR = 2


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    parser.add_argument("--scenario", env_var="LOAD_SCENARIO", type=_scenario, default="steady", metavar="NAME")
    parser.add_argument("--keys", env_var="LOAD_KEYS", type=Path, metavar="PATH")
    parser.add_argument("--seconds", env_var="LOAD_SECONDS", type=_within(float, 1, 86_400), metavar="NUMBER")
    parser.add_argument("--rate", env_var="LOAD_RATE", type=_within(float, 0.01, 100), default=1.0, metavar="NUMBER")
    parser.add_argument("--orders", env_var="LOAD_ORDERS", type=_within(int, 1, 100_000), metavar="NUMBER")
    parser.add_argument("--seed", env_var="LOAD_SEED", type=int, default=1, metavar="NUMBER")
    parser.add_argument("--ingest", env_var="LOAD_INGEST", metavar="URL")
    parser.add_argument("--webhook-secret", env_var="LOAD_WEBHOOK_SECRET", type=Path, metavar="FILE")
    parser.add_argument("--provider", env_var="LOAD_PROVIDER", metavar="URL")
    parser.add_argument("--history", env_var="LOAD_HISTORY", type=Path, metavar="FILE")
    parser.add_argument("--allow-remote", env_var="LOAD_ALLOW_REMOTE", action="store_true")
    if _SEVERAL_PROCESSES & {word.partition("=")[0] for word in sys.argv}:  # now: Locust forks before it asks `prepare`
        parser.error("there is one process: the orders of all users are counted in it")


@events.init.add_listener
def prepare(environment: Any, **_: object) -> None:
    """Refuse what must not be started; leave what the users share where they find it."""
    options = environment.parsed_options
    scenario = SCENARIOS[options.scenario]
    if not environment.host:
        _refuse("--host or LOCUST_HOST is missing: the base URL of the orders API")
    _check_what_it_needs(scenario, options)
    for url in filter(None, (environment.host, options.ingest, options.provider)):
        if not options.allow_remote and not is_loopback(url):
            _refuse(f"{url} is not on this machine: --allow-remote or LOAD_ALLOW_REMOTE=true, if it may get load")
    keys = _read_keys(options.keys)
    if "Abuser" in scenario.users and len(keys) == 1:
        _refuse(f"{options.scenario} needs the keys of two clients: one that abuses, and one that must not notice")
    environment.holdfast = Run(
        scenario=scenario,
        keys=keys,
        seed=options.seed,
        seconds=options.seconds or scenario.seconds,
        rate=options.rate,
        orders=options.orders or scenario.orders,
        ingest=options.ingest,
        webhook_secret=_read_secret(options.webhook_secret) if "WebhookSender" in scenario.users else b"",
        provider=options.provider,
        history=options.history,
    )
    environment.events.quit.add_listener(lambda **_: _report(environment))
    environment.stop_timeout = 2 * scenario.patience  # an errand is finished: its order is followed to its end


@events.quitting.add_listener
def decide(environment: Any, **_: object) -> None:
    """The exit code, which Locust takes now."""
    run: Run = environment.holdfast
    environment.lines = list(judge(_tally(environment, run), run.scenario.limits))
    environment.process_exit_code = 0 if all(line.holds for line in environment.lines) else 1


def _report(environment: Any) -> None:
    """After Locust's table, and in its page."""
    for line in environment.lines:
        print(line)
    options = environment.parsed_options
    if options.html_file and Path(options.html_file).exists():
        title = f"{options.scenario}, seed {options.seed}"
        add_verdict(Path(options.html_file), title, map(str, environment.lines))


def _tally(environment: Any, run: Run) -> Tally:
    entries = [entry for entry in environment.stats.entries.values() if not entry.name.startswith(WEBHOOKS)]
    abuse = [entry for entry in entries if ABUSE in entry.name]
    ordinary = [entry for entry in entries if ABUSE not in entry.name]
    overloads = run.scenario.overloads(within=run.seconds)
    served = [entry for entry in ordinary if not entry.name.endswith(tuple(REFUSALS.values()))]
    slowest = max(
        ((f"{e.method} {e.name}", e.get_response_time_percentile(0.95) / 1000) for e in served),
        key=lambda timed: timed[1],
        default=("no route", 0.0),
    )
    return Tally(
        answers=_answers(ordinary),
        failed=environment.stats.total.num_failures,
        given_up=run.given_up,
        exceptions=sum(seen["count"] for seen in environment.runner.exceptions.values()),
        rate_limited=_refused(ordinary, HTTPStatus.TOO_MANY_REQUESTS),
        overloaded=_refused(ordinary, HTTPStatus.SERVICE_UNAVAILABLE),
        slowest=slowest,
        placed=run.placed,
        unsettled=run.placed - len(run.settled),
        settled=percentile(run.settled, 0.95),
        abuse=(_answers(abuse), _refused(abuse, HTTPStatus.TOO_MANY_REQUESTS)),
        webhooks=(len(run.webhook_seconds), percentile(run.webhook_seconds, 0.99)),
        goodput=goodput(run.settled_at, overloads),
        recovered=max(run.refused_at, default=0.0) - overloads[-1][1] if overloads else 0.0,
        first_requests=run.first_requests,
        trouble=run.trouble,
    )


def _answers(entries: list[Any]) -> int:
    return sum(entry.num_requests for entry in entries)


def _refused(entries: list[Any], status: HTTPStatus) -> int:
    return _answers([entry for entry in entries if entry.name.endswith(REFUSALS[status])])


def _check_what_it_needs(scenario: Scenario, options: Any) -> None:
    if "WebhookSender" in scenario.users and not (options.ingest and options.webhook_secret):
        _refuse(f"{options.scenario} sends webhooks: --ingest and --webhook-secret say where to, and how to sign them")
    if any(stage.provider for stage in scenario.stages) and not options.provider:
        _refuse(f"in {options.scenario} the payment provider goes wrong: --provider says where the simulated one is")


def _read_secret(file: Path) -> bytes:
    """The key in the form `whsec_<base64>`."""
    try:
        return base64.b64decode(file.read_text("ascii").strip().removeprefix("whsec_"), validate=True)
    except (OSError, UnicodeDecodeError) as error:
        _refuse(f"the webhook secret cannot be read: {error}")
    except ValueError:
        _refuse(f"{file} holds no `whsec_…` secret")


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
