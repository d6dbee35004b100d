"""The chart adds up connections as the code does, tells each process the sum, and refuses what PostgreSQL has not."""

from typing import NamedTuple

import pytest
from chassis import config
from chassis.config.settings import BudgetSettings
from chassis.pooling.budget import Budget, Share, pool_budget, service_budget
from helm_python import HelmRenderError
from our_services import SETTINGS
from pod_files import Enter
from rendering import HOLDFAST, Values, merge, nested, render


class Case(NamedTuple):
    """What one service is given; None: what all are."""

    service: str
    replicas: int = 1
    workers: int = 1
    size: int | None = None
    overflow: int | None = None


COMMON = (10, 0)
GRID: tuple[tuple[Case, ...], ...] = (
    (),
    (Case("orders", replicas=2),),
    (Case("orders", workers=0), Case("payments", workers=3)),
    (Case("notifications", size=20, overflow=0),),
    (Case("webhook-ingest", replicas=7, workers=2, size=3), Case("orders", overflow=40)),
    tuple(Case(service, replicas=3, workers=4, size=1, overflow=9) for service in SETTINGS),
)


def values_for(cases: tuple[Case, ...]) -> Values:
    given: list[Values] = []
    for case in cases:
        place = f"services.{case.service}"
        given += [nested(f"{place}.replicas", value=case.replicas)]
        given += [nested(f"{place}.worker.replicas", value=case.workers)]
        given += [nested(f"{place}.config.database.pool_size", value=case.size)] if case.size is not None else []
        given += (
            [nested(f"{place}.config.database.max_overflow", value=case.overflow)] if case.overflow is not None else []
        )
    return merge(*given)


def budget_for(cases: tuple[Case, ...], *, reserve: int = BudgetSettings().reserve) -> Budget:
    given = {case.service: case for case in cases}
    shares = {}
    for service in SETTINGS:
        case = given.get(service, Case(service))
        size = COMMON[0] if case.size is None else case.size
        overflow = COMMON[1] if case.overflow is None else case.overflow
        shares[service] = Share(
            pool=size + overflow, api_replicas=case.replicas, worker_replicas=case.workers, generations=2
        )
    return pool_budget(shares, reserve=reserve)


def refusal(*values: Values) -> str:
    with pytest.raises(HelmRenderError) as refused:
        render(HOLDFAST, *values)
    return str(refused.value)


@pytest.mark.parametrize("cases", GRID)
def test_the_chart_adds_up_as_the_code_does_and_writes_the_sum_out(cases: tuple[Case, ...]) -> None:
    budget = budget_for(cases)
    said = refusal(values_for(cases), nested("postgres.maxConnections", value=budget.total - 1))
    assert f"{budget.total} connections may be open: {budget}" in said
    render(HOLDFAST, values_for(cases), nested("postgres.maxConnections", value=budget.total))


def test_the_bundled_server_allows_what_the_chart_adds_up_to() -> None:
    rendering = render(HOLDFAST, nested("postgres.maxConnections", value=234))
    (postgres,) = rendering.workload("StatefulSet/holdfast-postgres").pod["containers"]
    assert "max_connections=234" in postgres["args"]


def test_a_variable_that_changes_a_pool_is_counted() -> None:
    variables = {"HOLDFAST_DATABASE__POOL_SIZE": "30", "HOLDFAST_DATABASE__MAX_OVERFLOW": "0"}
    said = refusal(nested("services.orders.env", value=variables), nested("postgres.maxConnections", value=100))
    assert str(budget_for((Case("orders", size=30, overflow=0),))) in said


def test_who_keeps_more_in_reserve_is_told_so_in_the_sum() -> None:
    reserve = nested("postgres.reservedConnections", value=30)
    budget = budget_for((), reserve=30)
    said = refusal(reserve, nested("postgres.maxConnections", value=budget.total - 1))
    assert f"{budget.total} connections may be open: {budget}" in said
    render(HOLDFAST, reserve, nested("postgres.maxConnections", value=budget.total))


@pytest.mark.parametrize("service", SETTINGS)
def test_every_process_is_told_the_same_sum_as_the_chart_makes(enter: Enter, service: str) -> None:
    cases = (Case("orders", replicas=2, workers=3), Case("payments", size=17))
    given = merge(nested("postgres.maxConnections", value=10_000), nested("postgres.reservedConnections", value=31))
    rendering = render(HOLDFAST, values_for(cases), given)
    workload = rendering.workload(f"Deployment/holdfast-{service}")
    enter(rendering, workload, workload.pod["containers"][0])
    told = service_budget(service, config.load(SETTINGS[service]).database)
    whole = budget_for(cases, reserve=31)
    assert told.shares[service] == whole.shares[service]
    assert told.total == whole.total


def test_other_replicas_of_one_service_start_no_other_service_again() -> None:
    """Each file tells how many connections the others have; a running process takes that over."""
    one, two = render(HOLDFAST), render(HOLDFAST, nested("services.orders.worker.replicas", value=2))
    name = "Deployment/holdfast-payments"
    assert one.workload(name).annotations == two.workload(name).annotations
