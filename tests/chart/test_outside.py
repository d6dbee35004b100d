"""What the platform shows to the outside, and to those who watch it; and which pods go first."""

import re
from importlib import import_module

import pytest
from our_services import SETTINGS
from rendering import CHARTS, HOLDFAST, Json, Rendering, Values, merge, nested, render
from wiring import selected

INGRESS = nested("ingress.enabled", value=True)
POD_MONITOR = nested("podMonitor.enabled", value=True)


def hosts(*values: Values) -> dict[str, str]:
    """Host → Service, all under /v1 of its port http."""
    (ingress,) = render(HOLDFAST, INGRESS, *values).of_kind("Ingress")
    found = {}
    for rule in ingress["spec"]["rules"]:
        (path,) = rule["http"]["paths"]
        assert (path["path"], path["pathType"]) == ("/v1", "Prefix")
        assert path["backend"]["service"]["port"] == {"name": "http"}
        found[rule["host"]] = path["backend"]["service"]["name"]
    return found


def test_three_apis_are_reached_from_outside_each_at_its_host() -> None:
    assert hosts() == {
        "orders.example.com": "holdfast-orders",
        "notifications.example.com": "holdfast-notifications",
        "webhooks.example.com": "holdfast-webhook-ingest",
    }


def test_one_without_a_host_is_not_reached() -> None:
    assert set(hosts(nested("ingress.hosts.notifications", value="")).values()) == {
        "holdfast-orders",
        "holdfast-webhook-ingest",
    }


@pytest.mark.parametrize("service", ["orders", "notifications", "webhook-ingest"])
def test_all_public_routes_are_under_the_path_that_is_published(service: str) -> None:
    router = import_module(f"{service.replace('-', '_')}.routes").router
    assert router.routes
    assert [route.path for route in router.routes if not route.path.startswith("/v1/")] == []


def test_class_annotations_and_certificate_are_the_operators() -> None:
    (plain,) = render(HOLDFAST, INGRESS).of_kind("Ingress")
    assert plain["spec"].keys() == {"rules"}
    assert "annotations" not in plain["metadata"]
    given = {"className": "nginx", "annotations": {"a/b": "c"}, "tlsSecret": "tls", "hosts": {"notifications": ""}}
    (ingress,) = render(HOLDFAST, INGRESS, nested("ingress", value=given)).of_kind("Ingress")
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["metadata"]["annotations"] == {"a/b": "c"}
    assert ingress["spec"]["tls"] == [{"secretName": "tls", "hosts": ["orders.example.com", "webhooks.example.com"]}]


def test_the_notes_name_what_is_reached_from_outside() -> None:
    assert "  orders: http://orders.example.com/v1\n" in render(HOLDFAST, INGRESS).notes
    with_tls = render(HOLDFAST, INGRESS, nested("ingress", value={"tlsSecret": "tls", "hosts": {"orders": ""}})).notes
    assert "  webhook-ingest: https://webhooks.example.com/v1\n" in with_tls
    assert "orders.example.com" not in with_tls


def test_the_operators_prometheus_scrapes_the_same_pods_under_the_same_labels() -> None:
    rendering = render(HOLDFAST, POD_MONITOR, nested("podMonitor", value={"labels": {"team": "x"}, "interval": "30s"}))
    (monitor,) = rendering.of_kind("PodMonitor")
    assert monitor["metadata"]["labels"]["team"] == "x"
    selector = monitor["spec"]["selector"]
    (expression,) = selector["matchExpressions"]
    chosen = [
        it
        for it in selected(rendering, selector["matchLabels"])
        if it.labels[expression["key"]] in expression["values"]
    ]
    annotated = [it for it in rendering.workloads if it.annotations.get("prometheus.io/scrape") == "true"]
    assert [it.name for it in chosen] == [it.name for it in annotated]
    assert len(chosen) == 2 * len(SETTINGS)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["interval"] == "30s"
    for workload in chosen:
        named = {it["name"]: it["containerPort"] for it in workload.pod["containers"][0]["ports"]}
        assert str(named[endpoint["port"]]) == workload.annotations["prometheus.io/port"]
        assert endpoint["path"] == workload.annotations["prometheus.io/path"]
    beside = render(CHARTS / "observability", release="observability")
    scrape = "".join(beside.get("ConfigMap", "observability-prometheus")["data"].values())
    assert endpoint["honorLabels"] is True
    assert "honor_labels: true" in scrape
    for relabeling in endpoint["relabelings"]:
        (source,) = relabeling["sourceLabels"]
        assert re.search(rf"source_labels: \[{source}\]\s+target_label: {relabeling['targetLabel']}\b", scrape), source


def test_annotations_of_an_operators_own_are_on_the_services_pods() -> None:
    rendering = render(HOLDFAST, nested("podAnnotations", value={"reloader.stakater.com/auto": "true"}))
    with_it = {it.name for it in rendering.workloads if it.annotations.get("reloader.stakater.com/auto") == "true"}
    assert len(with_it) == 2 * len(SETTINGS)


def test_each_kind_of_pod_has_its_priority_and_none_unless_asked_for(platform: Rendering) -> None:
    assert [it.name for it in platform.workloads if "priorityClassName" in it.pod] == []
    names = {"api": "first", "worker": "second", "migration": "third"}
    rendering = render(HOLDFAST, nested("priorityClassNames", value=names))
    for workload in rendering.workloads:
        component = workload.labels["app.kubernetes.io/component"]
        assert workload.pod.get("priorityClassName") == names.get(component), workload.name


def test_pods_of_a_kind_are_spread_over_nodes_and_zones_as_far_as_there_are_some(platform: Rendering) -> None:
    for service in SETTINGS:
        for role in ("", "-worker"):
            pod = platform.workload(f"Deployment/holdfast-{service}{role}").pod
            constraints = {it["topologyKey"]: it for it in pod["topologySpreadConstraints"]}
            assert constraints.keys() == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
            for constraint in constraints.values():
                assert (constraint["maxSkew"], constraint["whenUnsatisfiable"]) == (1, "ScheduleAnyway")
                # Or a roll-out would count the old pods, too.
                assert constraint["matchLabelKeys"] == ["pod-template-hash"]


def test_the_test_pod_is_left_out_for_those_who_do_not_install_with_helm() -> None:
    on, off = render(HOLDFAST), render(HOLDFAST, nested("helmTest.enabled", value=False))
    assert on.names("Pod") - off.names("Pod") == {"holdfast-place-orders"}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ({}, "IfNotPresent"),  # they were loaded into the cluster: there is nothing to pull them from
        ({"registry": "registry.example.com"}, "Always"),
        ({"registry": "registry.example.com", "pullPolicy": "IfNotPresent"}, "IfNotPresent"),
        ({"pullPolicy": "Never"}, "Never"),
    ],
)
def test_every_image_is_pulled_as_the_values_say(image: Json, policy: str) -> None:
    rendering = render(HOLDFAST, {"image": image}, nested("load.enabled", value=True))
    assert {it["imagePullPolicy"] for workload in rendering.workloads for it in workload.containers} == {policy}


def test_objects_are_in_the_namespace_of_their_release_for_those_who_only_render() -> None:
    rendering = render(HOLDFAST, merge(INGRESS, POD_MONITOR), namespace="shop")
    assert {it["metadata"].get("namespace") for it in rendering.objects} == {"shop"}
