"""The demo: once as it is, in a process of its own, which takes half a minute; once interrupted; and its pure parts."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from holdfast_local.demo_client import Answer, Delivery, ProcessInfo, Transfer, Transfers, served
from holdfast_local.demo_metrics import Metrics
from holdfast_local.demo_script import (
    CHARGES_KEPT,
    DELIVERIES,
    HELD,
    IN_OUTAGE,
    KEPT_AWAY,
    MAILS,
    ORDERS,
    ORDINARY,
    ScriptedOrder,
    name_orders,
)
from holdfast_local.demo_table import pattern_rows
from holdfast_local.demo_verdict import Told, deviations
from holdfast_local.ports import free_port
from holdfast_local.runs import only_run
from holdfast_local.settings import LocalSettings

PATTERNS = (
    "logging", "pooling", "errors", "config", "rate_limiting",
    "jobs", "retries", "circuit_breaker", "caching", "webhooks",
)  # fmt: skip

METRICS_AS_SCRIPTED = f"""
# TYPE job_leases_expired_total counter
job_leases_expired_total{{queue="default",job="charge_payment"}} {len(HELD)}
# TYPE jobs_processed_total counter
jobs_processed_total{{queue="default",job="charge_payment",outcome="completed"}} 60
jobs_processed_total{{queue="default",job="charge_payment",outcome="retried"}} 9
# TYPE circuit_breaker_transitions_total counter
circuit_breaker_transitions_total{{dependency="provider",operation="charge",from="closed",to="open"}} 1
circuit_breaker_transitions_total{{dependency="provider",operation="charge",from="half_open",to="closed"}} 1
# TYPE api_errors_total counter
api_errors_total{{code="UNKNOWN_PRODUCT",route="/v1/orders"}} 1
# TYPE rate_limit_decisions_total counter
rate_limit_decisions_total{{policy="default",tier="standard",decision="refused",backend="redis"}} 1
# TYPE webhook_received_total counter
webhook_received_total{{provider="payment-provider",result="duplicate"}} 12
# TYPE webhook_endpoints_disabled_total counter
webhook_endpoints_disabled_total{{reason="gone"}} 1
# TYPE webhook_delivery_attempts_total counter
webhook_delivery_attempts_total{{result="delivered"}} {DELIVERIES}
# TYPE job_dead_letters gauge
job_dead_letters{{queue="default"}} 0
"""


@pytest.fixture
def state(tmp_path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def run_demo(state) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the real command with a state folder and ports of its own."""
    started: list[subprocess.Popen[str]] = []
    names = [name for name in LocalSettings.model_fields if name.endswith("_port")]
    settings = {"LOCAL_STATE": str(state), "LOCAL_POSTGRES_DURABLE": "false", "LOCAL_PORT_OFFSET": "0"}
    settings |= {f"LOCAL_{name.upper()}": str(free_port()) for name in names}

    def run() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("holdfast-local"), "demo"],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def metrics_of(*texts: str) -> Metrics:
    metrics = Metrics()
    for text in texts:
        metrics.add(text)
    return metrics


def transfers(*, captured: int, refunded: int) -> Transfers:
    """The provider's ledger, with a declined charge and a refund under way."""
    return Transfers(
        charges=[Transfer(amount=100, status="captured")] * captured + [Transfer(amount=100, status="failed")],
        refunds=[Transfer(amount=100, status="succeeded")] * refunded + [Transfer(amount=100, status="pending")],
    )


@pytest.fixture
def as_scripted() -> Told:
    return Told(
        outcomes={order.number: order.outcome for order in ORDERS},
        message_ids=[f"<{n}@holdfast.example>" for n in range(MAILS)],
        deliveries=[Delivery(webhook_id=str(n), verified=True, status=204) for n in range(DELIVERIES)],
        transfers=transfers(captured=CHARGES_KEPT + 2, refunded=2),
        metrics=metrics_of(METRICS_AS_SCRIPTED),
        processes=[ProcessInfo(service="orders", role="api", version="1", environment="test")],
    )


def test_the_demo_survives_its_faults_convinces_the_oracle_and_leaves_only_logs(run_demo, state):
    output, _ = run_demo().communicate()
    assert "all as the script says" in output, output
    for line in (
        r"repeated +order 3 under the same Idempotency-Key: [0-9a-f-]{36}, the same \d+ bytes",
        r"refused .*422 UNKNOWN_PRODUCT, lines\.0\.product_id",
        r"disabled +acme's webhook endpoint, which answered 410",
        r"subscribed +initech's webhook endpoint",
        r"cancelled +order 5: card_declined",
        r"degraded +payments-api is killed; order 1's payment is read: 200, paid, from the order, degraded",
        r"recovered +payments-api answers again; order 1's payment is read: captured, not degraded",
        r"cancel +order 12, confirmed and paid: 202, cancelling",
        r"refunded +order 12: [\d,]+ by the provider's ledger",
        r"hang +the payment provider",
        r"SIGKILL +payments-worker \(pid \d+\) while it charges for orders 28–30",
        r"cancel +order 29, .*: 202, cancelling",
        r"breaker +open",
        r"cancel +order 55, .*: 202, cancelling",
        r"outage +is over",
        r"429 RATE_LIMITED, Retry-After 1",
        r"taken over payments-worker's jobs",
        r"settled +60 orders, 122 mails, 41 webhooks to initech",
        r"All \d+ invariants hold",
        r"jobs +\d+ completed, \d+ retried; [3-9] leases expired, 0 dead letters",
        r"circuit_breaker +opened",
        r"webhooks +in: 6\d accepted, \d+ duplicate, .*; out: 41 delivered",
    ):
        assert re.search(line, output), f"no line with {line!r} in:\n{output}"
    table = output[output.index("what it did in this run") :]
    assert re.findall(r"^(\w+) {2,}", table, re.MULTILINE) == list(PATTERNS)
    assert {path.relative_to(state).parts[:2] for path in state.rglob("*") if path.is_file()} == {
        ("lock",),
        ("demo", "logs"),
    }


def test_ctrl_c_in_the_middle_leaves_nothing_but_logs(run_demo, state):
    demo = run_demo()
    next(line for line in demo.stdout if "placed" in line)
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) > 12
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate()
    assert demo.returncode == 130
    assert "Traceback" not in output
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert [path.name for path in (state / "demo").iterdir()] == ["logs"]


def test_the_demo_does_not_touch_a_platform_that_runs(run_demo, state):
    with only_run(state):
        demo = run_demo()
        output, _ = demo.communicate()
    assert demo.returncode == 1
    assert re.search(rf"already running \(pid {os.getpid()}, since .*make down", output)


def test_the_script_has_sixty_orders_of_three_clients_of_which_one_is_declined_and_three_are_called_off():
    assert [order.number for order in ORDERS] == list(range(1, 61))
    assert len({order.key for order in ORDERS}) == 60
    for orders in (ORDINARY, HELD, IN_OUTAGE, KEPT_AWAY):
        assert {order.client for order in orders} == {"acme", "globex", "initech"}
    assert [order.outcome for order in ORDERS].count("cancelled") == 4
    assert [order.body["payment_method"] for order in ORDERS].count("pm_card_declined") == 1


@pytest.mark.parametrize(
    ("numbers", "name"),
    [([], "no order"), ([5], "order 5"), ([3, 1, 2], "orders 1–3"), ([1, 2, 4, 6, 7], "orders 1–2, 4, 6–7")],
)
def test_orders_are_named_by_runs_of_their_numbers(numbers, name):
    assert name_orders([ScriptedOrder(number=number) for number in numbers]) == name


def test_a_run_as_scripted_deviates_in_nothing(as_scripted):
    assert deviations(as_scripted) == []


def test_an_order_that_ends_otherwise_is_named(as_scripted):
    told = replace(as_scripted, outcomes={**as_scripted.outcomes, 5: "confirmed"})
    assert deviations(told) == ["order 5 is confirmed; by the script it is cancelled"]


def test_missing_mails_and_copies_are_named(as_scripted):
    mails = list(as_scripted.message_ids)
    assert f"{MAILS - 1} different mails" in deviations(replace(as_scripted, message_ids=mails[1:]))[0]
    assert "1 mails arrived twice" in deviations(replace(as_scripted, message_ids=[*mails, mails[0]]))[0]


def test_missing_webhooks_copies_and_forgeries_are_named(as_scripted):
    sent = list(as_scripted.deliveries)
    forged = Delivery(webhook_id="0", verified=False, status=401)
    assert "40 different webhooks" in deviations(replace(as_scripted, deliveries=sent[1:]))[0]
    assert "1 webhooks reached the customer twice" in deviations(replace(as_scripted, deliveries=[*sent, sent[0]]))[0]
    assert "signatures of 1 webhooks" in deviations(replace(as_scripted, deliveries=[forged, *sent[1:]]))[0]


def test_a_charge_that_was_not_refunded_is_named_and_one_more_that_was_is_not(as_scripted):
    captured = CHARGES_KEPT + 3
    assert deviations(replace(as_scripted, transfers=transfers(captured=captured, refunded=3))) == []
    [found] = deviations(replace(as_scripted, transfers=transfers(captured=captured, refunded=2)))
    assert found == f"{CHARGES_KEPT + 1} captured charges were not refunded; by the script there are {CHARGES_KEPT}"


async def test_a_request_over_its_limit_is_made_again_until_it_is_served():
    answers = iter([Answer(429, b""), Answer(429, b""), Answer(201, b"order")])

    async def ask() -> Answer:
        return next(answers)

    assert await served(ask) == Answer(201, b"order")


@pytest.mark.parametrize(
    ("line", "instead", "problem"),
    [
        ('to="open"} 1', 'to="open"} 0', "times a breaker opened: 0"),
        (f"}} {len(HELD)}\n", "} 0\n", "leases expired: 0; by the script at least 3"),
        (
            f'result="delivered"}} {DELIVERIES}',
            'result="failed"} 41',
            "webhooks delivered: 0; by the script at least 41",
        ),
        ('job_dead_letters{queue="default"} 0', 'job_dead_letters{queue="default"} 1', "dead letters: 1"),
    ],
)
def test_a_fault_that_was_not_met_or_not_survived_is_named(as_scripted, line, instead, problem):
    changed = METRICS_AS_SCRIPTED.replace(line, instead)
    assert changed != METRICS_AS_SCRIPTED
    [found] = deviations(replace(as_scripted, metrics=metrics_of(changed)))
    assert problem in found


def test_the_table_has_a_line_for_each_of_the_ten_patterns(as_scripted):
    rows = pattern_rows(as_scripted)
    assert tuple(rows) == PATTERNS
    assert rows["jobs"] == "60 completed, 9 retried; 3 leases expired, 0 dead letters"
    assert rows["webhooks"] == "in: 12 duplicate, p99 until answered unknown; out: 41 delivered"
    assert rows["errors"] == "1 answer in the envelope: 1 UNKNOWN_PRODUCT"


COUNTED = """
# TYPE log_events_total counter
log_events_total{level="info"} 3
log_events_total{level="warning"} 1
# TYPE job_dead_letters gauge
job_dead_letters{queue="default"} 2
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.1",pool="a"} 98
wait_seconds_bucket{le="0.5",pool="a"} 99
wait_seconds_bucket{le="+Inf",pool="a"} 100
wait_seconds_count{pool="a"} 100
wait_seconds_sum{pool="a"} 9
"""


def test_metrics_are_summed_over_processes_and_labels():
    metrics = metrics_of(COUNTED, COUNTED)
    assert metrics.total("log_events_total") == 8
    assert metrics.total("log_events_total", level="info") == 6
    assert metrics.by("log_events_total", "level") == {"info": 6, "warning": 2}
    assert metrics.total("job_dead_letters") == 4
    assert metrics.total("never_counted") == 0


def test_a_process_that_has_ended_counts_with_what_it_did_but_is_in_no_state():
    metrics = Metrics()
    metrics.add(COUNTED, of_ended_process=True)
    assert metrics.total("log_events_total") == 4
    assert metrics.total("job_dead_letters") == 0


@pytest.mark.parametrize(("q", "bound"), [(0.5, 0.1), (0.99, 0.5), (1.0, float("inf"))])
def test_a_quantile_is_the_bound_of_the_bucket_that_holds_it(q, bound):
    assert metrics_of(COUNTED, COUNTED).quantile("wait_seconds", q) == bound
