"""Who scales what: by CPU or by queue, within the limits of the values, which everything else counts with."""

import re

import pytest
from chassis.jobs import tending as job_tending
from helm_python import HelmRenderError
from our_services import SETTINGS
from rendering import CHARTS, HOLDFAST, Json, Rendering, Values, merge, nested, render, values_of

ROOM = nested("postgres.maxConnections", value=10_000)
APIS = merge(nested("autoscaling.apis.enabled", value=True), ROOM)
WORKERS = merge(nested("autoscaling.workers.enabled", value=True), ROOM)


def of_kind(rendering: Rendering, kind: str) -> dict[str, Json]:
    return {it["metadata"]["name"]: it["spec"] for it in rendering.of_kind(kind)}


def replicas(rendering: Rendering) -> dict[str, int | None]:
    return {name: spec.get("replicas") for name, spec in of_kind(rendering, "Deployment").items()}


def test_apis_are_scaled_by_an_amount_of_cpu_that_does_not_depend_on_what_they_ask_for() -> None:
    values = merge(APIS, nested("services.orders", value={"replicas": 2, "maxReplicas": 9}))
    found = of_kind(render(HOLDFAST, values), "HorizontalPodAutoscaler")
    assert found.keys() == {f"holdfast-{service}" for service in SETTINGS}
    orders = found["holdfast-orders"]
    assert orders["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "holdfast-orders"}
    assert (orders["minReplicas"], orders["maxReplicas"]) == (2, 9)
    payments = found["holdfast-payments"]
    assert (payments["minReplicas"], payments["maxReplicas"]) == (1, 3)
    target = {"type": "AverageValue", "averageValue": "700m"}
    assert orders["metrics"] == [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]


def test_workers_are_scaled_by_the_age_of_their_own_queue() -> None:
    values = merge(WORKERS, nested("services.orders.worker", value={"replicas": 2, "maxReplicas": 9}))
    found = of_kind(render(HOLDFAST, values), "ScaledObject")
    assert found.keys() == {f"holdfast-{service}-worker" for service in SETTINGS}
    orders = found["holdfast-orders-worker"]
    assert orders["scaleTargetRef"] == {"name": "holdfast-orders-worker"}
    assert (orders["minReplicaCount"], orders["maxReplicaCount"]) == (2, 9)
    for service in SETTINGS:
        (trigger,) = found[f"holdfast-{service}-worker"]["triggers"]
        # Not an average over the workers: each of them reports the same queue.
        assert trigger["metricType"] == "Value"
        assert f'service="{service}"' in trigger["metadata"]["query"]
        assert trigger["metadata"]["threshold"] == "10"


def test_the_query_asks_for_a_metric_and_labels_that_there_are() -> None:
    beside = render(CHARTS / "observability", release="observability")
    query = values_of(HOLDFAST)["autoscaling"]["workers"]["query"]
    metric, label = re.fullmatch(r'max\((\w+)\{(\w+)="SERVICE"\}\)', query).groups()
    assert metric == job_tending.oldest_age_seconds._name
    scrape = beside.get("ConfigMap", "observability-prometheus")["data"]
    (trigger,) = of_kind(render(HOLDFAST, WORKERS), "ScaledObject")["holdfast-orders-worker"]["triggers"]
    assert any(f"target_label: {label}" in text for text in scrape.values())
    (port,) = (it["port"] for it in beside.get("Service", "observability-prometheus")["spec"]["ports"])
    # By its full name: whoever asks is in another namespace.
    assert trigger["metadata"]["serverAddress"] == f"http://observability-prometheus.holdfast:{port}"


@pytest.mark.parametrize(("values", "suffix"), [(APIS, ""), (WORKERS, "-worker")])
def test_whoever_scales_says_how_many_there_are_and_the_chart_does_not(values: Values, suffix: str) -> None:
    scaled = {f"holdfast-{service}{suffix}" for service in SETTINGS}
    found = replicas(render(HOLDFAST, values))
    assert {name for name, number in found.items() if number is None} == scaled
    assert {number for name, number in found.items() if name not in scaled} == {1}


def test_connections_and_local_limits_are_counted_with_the_most_that_there_may_be() -> None:
    most = merge(
        APIS,
        WORKERS,
        nested("services.orders", value={"maxReplicas": 7, "worker": {"maxReplicas": 5}}),
    )
    orders = render(HOLDFAST, most).configuration("orders")
    assert orders["rate_limit"]["replicas"] == 7
    assert (orders["database"]["budget"]["api_replicas"], orders["database"]["budget"]["worker_replicas"]) == (7, 5)
    with pytest.raises(HelmRenderError, match=re.escape("orders: 2 × (7 × 12 + 5 × 13) + 1 = 299")):
        render(HOLDFAST, most, nested("postgres.maxConnections", value=300))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (merge(APIS, nested("services.orders.replicas", value=9)), "services.orders.maxReplicas is below its replicas"),
        (
            merge(WORKERS, nested("services.orders.worker.replicas", value=9)),
            "services.orders.worker.maxReplicas is below its replicas",
        ),
        (merge(WORKERS, nested("services.orders.worker.replicas", value=0)), "nobody measures the queue"),
        (
            merge(
                nested("ingress.enabled", value=True),
                nested("ingress.hosts", value={"orders": "", "notifications": "", "webhook-ingest": ""}),
            ),
            "ingress.enabled needs a host",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(values: Values, complaint: str) -> None:
    with pytest.raises(HelmRenderError, match=complaint):
        render(HOLDFAST, values)


def test_without_autoscaling_its_limits_mean_nothing(platform: Rendering) -> None:
    few = render(HOLDFAST, ROOM, nested("services.orders", value={"replicas": 3, "maxReplicas": 1}))
    assert replicas(few)["holdfast-orders"] == 3
    assert platform.of_kind("HorizontalPodAutoscaler", "ScaledObject") == []
