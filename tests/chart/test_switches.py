"""Every switch makes what it says when it is on, and nothing of it when it is off."""

from collections.abc import Collection

import pytest
from our_services import SETTINGS
from rendering import HOLDFAST, Rendering, identity, leaves, merge, nested, render, values_of
from variants import variants

OURS = [f"holdfast-{service}" for service in SETTINGS]
WORKERS = [f"{name}-worker" for name in OURS]
LOAD = nested("load.enabled", value=True)


def names(rendering: Rendering) -> set[str]:
    return {identity(found) for found in rendering.objects}


SWITCHES: dict[str, Collection[str]] = {
    "autoscaling.apis.enabled": [f"HorizontalPodAutoscaler/{name}" for name in OURS],
    "autoscaling.workers.enabled": [f"ScaledObject/{name}" for name in WORKERS],
    "ingress.enabled": ["Ingress/holdfast-public"],
    "networkPolicies.enabled": ["NetworkPolicy/holdfast-default-deny", "NetworkPolicy/holdfast-orders-worker"],
    "podMonitor.enabled": ["PodMonitor/holdfast-services"],
    "secrets.generate": ["Secret/holdfast-generated"],
    "postgres.enabled": ["StatefulSet/holdfast-postgres", "Service/holdfast-postgres", "ConfigMap/holdfast-postgres"],
    "valkey.enabled": ["Deployment/holdfast-valkey", "Service/holdfast-valkey", "ConfigMap/holdfast-valkey"],
    "simulators.enabled": [
        f"{kind}/holdfast-{name}"
        for kind in ("StatefulSet", "Service")
        for name in ("payment-provider", "mailbox", "customer-endpoint")
    ],
    "helmTest.enabled": ["Pod/holdfast-place-orders"],
    "load.enabled": [name for name in names(render(HOLDFAST, LOAD)) if name.startswith("Job/holdfast-load-")],
}
NEED_SIMULATORS = {"helmTest.enabled", "load.enabled"}


def test_every_switch_is_known_here() -> None:
    assert {path for path, value in leaves(values_of(HOLDFAST)) if isinstance(value, bool)} == set(SWITCHES)


def test_each_switch_is_turned_on_and_off_somewhere() -> None:
    seen = set()
    for values in variants().values():
        chosen = dict(leaves(merge(values_of(HOLDFAST), values)))
        seen |= {(switch, chosen[switch]) for switch in SWITCHES}
    assert seen == {(switch, value) for switch in SWITCHES for value in (True, False)}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_makes_what_it_says_and_only_when_it_is_on(switch: str) -> None:
    for variant, values in variants().items():
        if f", {switch}=" in variant or ", " not in variant:
            found, chosen = names(render(HOLDFAST, values)), dict(leaves(merge(values_of(HOLDFAST), values)))
            if not chosen[switch]:
                assert found.isdisjoint(SWITCHES[switch]), variant
            elif switch not in NEED_SIMULATORS or chosen["simulators.enabled"]:
                assert found >= set(SWITCHES[switch]), variant


def test_production_has_everything_on_that_is_not_for_a_trial() -> None:
    values = dict(leaves(render(HOLDFAST, values_of(HOLDFAST, "values-prod.yaml")).values))
    trial = {"secrets.generate", "postgres.enabled", "valkey.enabled", "simulators.enabled", *NEED_SIMULATORS}
    assert {switch for switch in SWITCHES if not values[switch]} == trial
    assert [path for path, value in values.items() if path.endswith(".replicas") and value < 2] == []
