"""The chart adds up calls as the code does, and refuses limits that do not fit together."""

from collections.abc import Mapping
from typing import Any

import pytest
from chassis import config
from chassis.config.settings import Causes, RateLimitSettings, ServiceSettings, call_sum
from helm_python import HelmRenderError
from our_services import SETTINGS
from pod_files import Enter
from rendering import HOLDFAST, Values, merge, nested, render

ORDERS, PAYMENTS = SETTINGS["orders"], SETTINGS["payments"]
EDGES = {"orders": {"payments": 12.0}, "payments": {"provider": 12.0}}
GRID: tuple[Mapping[str, Any], ...] = (
    {"rate_per_second": 50},
    {"clients": 300},
    {"rate_per_second": 33.3, "clients": 7},
    {"clients": 5, "tiers": {"gold": 20, "silver": 0.5}, "tier_of": {"acme": "gold", "b": "silver", "c": "standard"}},
    {"clients": 0, "tiers": {"gold": 30}, "tier_of": {"acme": "gold", "globex": "gold"}},
)


def refusal(*values: Values) -> str:
    with pytest.raises(HelmRenderError) as refused:
        render(HOLDFAST, *values)
    return str(refused.value)


def causes_of(service: type[ServiceSettings]) -> Causes:
    (causes,) = service.causes
    return causes


@pytest.mark.parametrize("limits", GRID)
def test_the_chart_adds_up_as_the_code_does_and_writes_the_sum_out(limits: Mapping[str, Any]) -> None:
    needed = call_sum(RateLimitSettings(**{"clients": 3, "edges": EDGES, **limits}), "orders", causes_of(ORDERS))
    assert needed.total > 12
    said = refusal(nested("services.orders.config.rate_limit", value=limits))
    expected = f"rate_limit.edges.orders.payments is 12, but the callers of orders may cause {needed.total:g} calls"
    assert f"{expected} per second: {needed}" in said


def test_the_next_edge_is_checked_with_the_calls_that_the_edge_before_it_admits() -> None:
    said = refusal(nested("config.rate_limit.edges.orders.payments", value=15))
    assert "rate_limit.edges.payments.provider is 12, but the callers of payments may cause 15 calls" in said
    assert "per second: (orders: 15) × 1 ÷ 1 = 15" in said
    render(
        HOLDFAST, nested("config.rate_limit.edges", value={"orders": {"payments": 15}, "payments": {"provider": 15}})
    )


def test_both_ends_of_an_edge_have_the_same_limit() -> None:
    said = refusal(nested("services.payments.config.rate_limit.edges.orders.payments", value=5))
    assert "orders sends 12 calls per second to payments, which admits 5" in said


def test_an_inner_edge_has_no_default() -> None:
    said = refusal(nested("config.rate_limit.edges.orders", value=None))
    assert "rate_limit.edges.orders.payments is missing: the callers of orders may cause 12 calls per second" in said


def test_a_variable_that_changes_a_limit_is_counted() -> None:
    said = refusal(nested("services.orders.env", value={"HOLDFAST_RATE_LIMIT__RATE_PER_SECOND": "50"}))
    assert "(clients: 3 × 50 = 150) × 2 ÷ 5 = 60" in said


@pytest.mark.parametrize("service", SETTINGS)
def test_every_process_starts_with_the_limits_that_the_chart_accepts(enter: Enter, service: str) -> None:
    given = merge(
        nested("config.rate_limit.edges", value={"orders": {"payments": 60}, "payments": {"provider": 60}}),
        nested("services.orders.config.rate_limit.rate_per_second", value=50),
    )
    rendering = render(HOLDFAST, given)
    workload = rendering.workload(f"Deployment/holdfast-{service}")
    enter(rendering, workload, workload.pod["containers"][0])
    sums = config.load(SETTINGS[service]).call_sums
    assert {needed.total for needed in sums.values()} <= {60}
