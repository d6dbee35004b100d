"""Limits that fit: the calls that callers may cause are admitted, or the configuration is refused."""

from pathlib import Path

import pytest
from chassis.config import load
from chassis.config.settings import RateLimitSettings, ServiceSettings
from chassis.errors import ConfigurationError
from chassis.rate_limiting import MICROSECONDS, LocalLimiter, Policy, default_policy, edge_policy
from holdfast_local.secrets import CLIENTS
from holdfast_local.settings import PROJECT
from orders.settings import PLACE_ORDER_COST, OrdersSettings
from payments.settings import PaymentsSettings

REQUIRED = {
    OrdersSettings: ("payments.base_url=http://payments", f"payments.token_secret={'s' * 32}"),
    PaymentsSettings: ("provider.base_url=http://provider", "provider.api_key=key"),
}
MINUTE = 60 * MICROSECONDS


class Clock:
    def __init__(self) -> None:
        self.microseconds = 0

    def __call__(self) -> float:
        return self.microseconds / MICROSECONDS


def settings_of[S: ServiceSettings](service: type[S], folder: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> S:
    files = PROJECT / "infra" / folder
    monkeypatch.setenv("HOLDFAST_COMMON_FILE", str(files / "common.yaml"))
    monkeypatch.setenv("HOLDFAST_SERVICE_FILE", str(files / f"{service.service_name}.yaml"))
    return load(service, ["database.password=p", *REQUIRED[service], *options])


def refused_calls(outer: RateLimitSettings, inner: Policy) -> tuple[int, int]:
    """The calls that an inner limit admits and refuses, while `CLIENTS` place as many orders as their limits admit.
    Each order causes two calls.
    """
    clock = Clock()
    limiter = LocalLimiter(max_keys=100, clock=clock)
    policy = default_policy(outer, tier="standard")
    calls = {True: 0, False: 0}
    for clock.microseconds in range(0, 10 * MINUTE, 20_000):
        for client in CLIENTS:
            # A client that has used up its burst is at its limit, from the first minute on.
            if limiter.check(client, policy, cost=PLACE_ORDER_COST).allowed and clock.microseconds > MINUTE:
                for _ in range(2):
                    calls[limiter.check("orders", inner, cost=1).allowed] += 1
    return calls[True], calls[False]


def test_the_default_limit_of_a_caller_refuses_calls_that_customers_within_their_limits_cause() -> None:
    """The version that goes wrong: payments treats the orders service like any customer."""
    limits = RateLimitSettings()
    admitted, refused = refused_calls(limits, default_policy(limits, tier="standard"))
    assert refused > 1000
    assert refused / (admitted + refused) == pytest.approx(1 / 6, abs=0.02)  # 12 calls/s, of which 10 are admitted


@pytest.mark.parametrize("folder", ["local/config", "compose"])
def test_an_edge_admits_every_call_that_customers_within_their_limits_cause(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = settings_of(OrdersSettings, folder, monkeypatch).rate_limit
    payments = settings_of(PaymentsSettings, folder, monkeypatch).rate_limit
    assert orders.clients == len(CLIENTS)
    admitted, refused = refused_calls(orders, edge_policy(payments, caller="orders", service="payments"))
    assert admitted > 6000
    assert refused == 0


@pytest.mark.parametrize("folder", ["local/config", "compose"])
def test_a_customer_s_limit_that_the_inner_edges_do_not_admit_stops_both_services(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError) as invalid:
        settings_of(OrdersSettings, folder, monkeypatch, "rate_limit.rate_per_second=50")
    (problem,) = invalid.value.problems
    assert problem == (
        "rate_limit.edges.orders.payments is 12, but the callers of orders may cause 60 calls per second: "
        "(clients: 3 × 50 = 150) × 2 ÷ 5 = 60"
    )
    with pytest.raises(
        ConfigurationError, match=r"payments may cause 60 calls per second: \(orders: 60\) × 1 ÷ 1 = 60"
    ):
        settings_of(PaymentsSettings, folder, monkeypatch, 'rate_limit.edges={"orders": {"payments": 60}}')


def test_a_service_does_not_start_with_a_calling_service_that_has_no_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "common.yaml").write_text("rate_limit: {clients: 0}")
    monkeypatch.setenv("HOLDFAST_COMMON_FILE", str(tmp_path / "common.yaml"))
    monkeypatch.setenv("HOLDFAST_SERVICE_FILE", str(PROJECT / "infra/local/config/payments.yaml"))
    with pytest.raises(ConfigurationError, match=r"add rate_limit\.edges\.orders\.payments"):
        load(PaymentsSettings, ["database.password=p", *REQUIRED[PaymentsSettings]])


def test_clients_of_a_tier_are_counted_with_the_factor_of_the_tier() -> None:
    limits = RateLimitSettings(clients=4, tiers={"gold": 3}, tier_of={"acme": "gold"})
    settings = OrdersSettings.model_construct(rate_limit=limits)
    assert str(settings.call_sums["payments"]) == "(clients: 3 × 10 = 30; gold: 1 × 30 = 30) × 2 ÷ 5 = 24"
