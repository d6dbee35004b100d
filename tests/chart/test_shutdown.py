"""A pod has the time that its process takes to stop: the chart adds up as the settings do, and the process knows it."""

from pathlib import Path

import pytest
from chassis import config
from chassis.errors import ConfigurationError
from our_services import SETTINGS
from pod_files import Enter, with_secrets
from rendering import (
    HOLDFAST,
    Json,
    Rendering,
    Values,
    Workload,
    copy_of,
    merge,
    nested,
    render,
    values_files,
    values_of,
)

ROLES = ("api", "worker")
CASES: dict[str, Values] = {
    **{file: values_of(HOLDFAST, file) for file in values_files(HOLDFAST)},
    "values.yaml": {},
    "a long drain": nested("config.shutdown.drain_timeout", value=300),
    "no delay and a broken number": merge(
        nested("config.shutdown.readiness_delay", value=0), nested("config.shutdown.drain_timeout", value=0.5)
    ),
    "one service's own": nested("services.orders.config.shutdown.drain_timeout", value=50.5),
    "a variable": nested("services.orders.env", value={"HOLDFAST_SHUTDOWN__READINESS_DELAY": "30"}),
    "slow routers": nested("preStopSeconds", value=60),
}


def deployment(rendering: Rendering, service: str, role: str) -> Workload:
    return rendering.workload(f"Deployment/holdfast-{service}{'-worker' if role == 'worker' else ''}")


def pre_stop(workload: Workload) -> int:
    (container,) = workload.pod["containers"]
    seconds: int = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    return seconds


def problems(rendering: Rendering, enter: Enter) -> list[str]:
    """Pods that are killed before their process is done, or whose process does not know how long it has."""
    rendering, found = with_secrets(rendering), []
    for service, role in ((service, role) for service in SETTINGS for role in ROLES):
        workload = deployment(rendering, service, role)
        enter(rendering, workload, workload.pod["containers"][0])
        shutdown = config.load(SETTINGS[service]).shutdown
        granted = workload.pod["terminationGracePeriodSeconds"]
        # preStop is part of the time that Kubernetes counts, and the process does not see it.
        if not granted - 1 < shutdown.limit + pre_stop(workload) <= granted:
            found.append(f"{workload.name}: {granted} s for {pre_stop(workload)} + {shutdown.limit}")
        if shutdown.grace_period != granted - pre_stop(workload):
            found.append(f"{workload.name}: the process is told {shutdown.grace_period} s")
        if not isinstance(granted, int):
            found.append(f"{workload.name}: {granted!r} is no whole number")
    return found


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_a_pod_has_exactly_the_time_that_its_process_takes_to_stop(enter: Enter, values: Values) -> None:
    assert problems(render(HOLDFAST, values), enter) == []


def test_the_default_is_the_sum_that_the_page_shows(platform: Rendering) -> None:
    assert deployment(platform, "orders", "api").pod["terminationGracePeriodSeconds"] == 5 + 20 + 12


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("templates/_shutdown.tpl", "addf $delay $drain 12", "addf $delay $drain 11"),
        ("templates/_shutdown.tpl", "addf $delay $drain 12", "addf $drain 12"),
        ("templates/_shutdown.tpl", "(add $preStop $process)", "$process"),
        ("templates/_config.tpl", '"grace_period" $shutdown.process', '"grace_period" $shutdown.api'),
    ],
)
def test_a_sum_that_is_wrong_is_found(enter: Enter, tmp_path: Path, file: str, old: str, new: str) -> None:
    broken = render(copy_of(HOLDFAST, tmp_path, {file: (old, new)}), values_of(HOLDFAST, "values-prod.yaml"))
    try:
        found = problems(broken, enter)
    except ConfigurationError as refused:  # the process itself does not start
        found = [problem for problem in refused.problems if "shutdown" in problem]
    assert found != []


def test_only_an_api_waits_before_it_is_told_since_nothing_is_routed_to_a_worker() -> None:
    rendering = render(HOLDFAST, nested("preStopSeconds", value=7))
    for service in SETTINGS:
        assert pre_stop(deployment(rendering, service, "api")) == 7
        assert pre_stop(deployment(rendering, service, "worker")) == 0


def test_nothing_waits_before_it_is_told_unless_it_is_asked_for(platform: Rendering) -> None:
    containers: list[Json] = [it for workload in platform.workloads for it in workload.containers]
    assert [it for it in containers if "lifecycle" in it] == []
