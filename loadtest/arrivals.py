"""Users come when the scenario says, each a Locust user with one errand; the provider goes wrong when it says."""

import json
import signal
import sys
from collections.abc import Mapping
from http import HTTPStatus
from time import perf_counter
from typing import Any
from urllib.request import Request, urlopen

import gevent
from locust import LoadTestShape, events
from run import Run
from scenario import Stage

_PROVIDER_SECONDS = 10.0


class Arrivals(LoadTestShape):
    """Locust itself starts nobody; it ends the run, and waits for the errands that are under way."""

    _stage: Stage | None = None

    def tick(self) -> tuple[int, float] | None:
        run: Run = self.runner.environment.holdfast
        stage = run.scenario.stage_at(run.elapsed(), within=run.seconds)
        if stage is not self._stage:
            before, self._stage = self._stage, stage
            if stage is not None and stage.provider != (before.provider if before else {}):
                try:
                    set_provider(run, stage.provider)
                except OSError as error:
                    run.trouble = f"the provider at {run.provider} does not take its faults: {error}"
                    return None
        return None if stage is None else (0, 1)


@events.init.add_listener
def heal_when_told_to_stop(environment: Any, **_: object) -> None:
    """Locust listens to signals only once a shape has ended."""
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, _heal_and_exit, environment, number)


def _heal_and_exit(environment: Any, number: signal.Signals) -> None:
    heal(environment)
    sys.exit(128 + number)


@events.test_start.add_listener
def let_them_come(environment: Any, **_: object) -> None:
    run: Run = environment.holdfast
    run.began = perf_counter()
    environment.runner.greenlet.spawn(_let_them_come, environment.runner, run)


def _let_them_come(runner: Any, run: Run) -> None:
    for arrival in run.scenario.arrivals(seed=run.seed, within=run.seconds, rate=run.rate):
        gevent.sleep(max(0.0, run.began + arrival.at - perf_counter()))
        run.arrival = arrival
        run.came[arrival.user] += 1
        runner.spawn_users({arrival.user: 1})


@events.test_stop.add_listener
def tell_who_came(environment: Any, **_: object) -> None:
    """Locust's page shows their shares; those of who is there at the end, as Locust has them, say nothing here."""
    environment.runner.final_user_classes_count = environment.holdfast.came


@events.test_stop.add_listener
@events.quitting.add_listener
def heal(environment: Any, **_: object) -> None:
    """Whatever the scenario broke is whole again, however the run ends."""
    run: Run = environment.holdfast
    if run.provider and any(stage.provider for stage in run.scenario.stages):
        set_provider(run, {})


def set_provider(run: Run, switches: Mapping[str, float | bool]) -> None:
    """Raises OSError when the provider does not take them."""
    url, headers = f"{run.provider}/faults", {"Content-Type": "application/json"}
    request = Request(url, json.dumps(switches).encode(), headers, method="PUT")  # noqa: S310  an operator's URL
    with urlopen(request, timeout=_PROVIDER_SECONDS) as answer:  # noqa: S310  as above
        assert answer.status == HTTPStatus.OK  # noqa: S101  anything else has raised
