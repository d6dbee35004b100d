"""The checker of selectors and references, on objects that are wrong in one way each."""

import pytest
import yaml
from rendering import Json, Rendering, changed
from wiring import reference_problems, selector_problems, service_problems

OBJECTS: Json = {
    found["kind"] + "/" + found["metadata"]["name"].removeprefix("holdfast-"): found
    for found in yaml.safe_load_all("""
kind: Deployment
metadata: {name: holdfast-orders}
spec:
  selector: {matchLabels: {app: orders, role: api}}
  template:
    metadata: {labels: {app: orders, role: api}}
    spec:
      serviceAccountName: holdfast-orders
      imagePullSecrets: [{name: holdfast-registry}]
      volumes:
        - {name: common, configMap: {name: holdfast-common}}
        - name: secrets
          projected: {sources: [{secret: {name: holdfast-orders, items: [{key: password, path: password}]}}]}
        - {name: data, persistentVolumeClaim: {claimName: holdfast-data}}
      containers:
        - name: api
          env: [{name: LEVEL, valueFrom: {configMapKeyRef: {name: holdfast-common, key: level}}}]
          envFrom: [{secretRef: {name: holdfast-orders}}]
          ports: [{name: http, containerPort: 8000}]
          volumeMounts: [{name: common, mountPath: /etc/config.yaml, subPath: config.yaml}]
---
kind: StatefulSet
metadata: {name: holdfast-postgres}
spec:
  serviceName: holdfast-postgres
  selector: {matchLabels: {app: postgres}}
  template:
    metadata: {labels: {app: postgres}}
    spec: {containers: [{name: postgres, ports: [{name: postgres, containerPort: 5432}]}]}
---
kind: Job
metadata: {name: holdfast-migrate-1}
spec:
  template:
    metadata: {labels: {app: orders, role: migrate}}
    spec:
      volumes: [{name: common, configMap: {name: holdfast-common}}]
      containers: [{name: migrate}]
---
kind: Service
metadata: {name: holdfast-orders}
spec: {selector: {app: orders, role: api}, ports: [{port: 80, targetPort: http}]}
---
kind: Service
metadata: {name: holdfast-postgres}
spec: {selector: {app: postgres}, ports: [{port: 5432, targetPort: postgres}]}
---
kind: PodDisruptionBudget
metadata: {name: holdfast-orders}
spec: {selector: {matchLabels: {app: orders, role: api}}}
---
{kind: NetworkPolicy, metadata: {name: holdfast-postgres}, spec: {podSelector: {matchLabels: {app: postgres}}}}
---
{kind: ConfigMap, metadata: {name: holdfast-common}, data: {config.yaml: "", level: INFO}}
---
{kind: Secret, metadata: {name: holdfast-orders}, data: {password: YQ==}}
---
{kind: Secret, metadata: {name: holdfast-registry}}
---
{kind: ServiceAccount, metadata: {name: holdfast-orders}}
---
{kind: PersistentVolumeClaim, metadata: {name: holdfast-data}}
""")
}
ORDERS, POD = "Deployment/orders", "spec.template.spec"

SERVICES = {
    "pods of two workloads": (
        "spec.selector", {"app": "orders"},
        "selects the pods of ['Deployment/holdfast-orders', 'Job/holdfast-migrate-1']",
    ),
    "no pods": ("spec.selector.role", "apis", "selects the pods of []"),
    "everything": ("spec.selector", {}, "selects the pods of []"),
    "the pods of a Job": ("spec.selector.role", "migrate", "selects the pods of ['Job/holdfast-migrate-1']"),
    "a port that the pods do not name": (
        "spec.ports.0.targetPort", "htttp", "Deployment/holdfast-orders names no port 'htttp'",
    ),
    "a port by number": ("spec.ports.0.targetPort", 8000, "Deployment/holdfast-orders names no port 8000"),
}  # fmt: skip
SELECTORS = {
    "another's pods as well": (
        ORDERS, "spec.selector.matchLabels", {"app": "orders"},
        ["its selector matches the pods of ['Deployment/holdfast-orders', 'Job/holdfast-migrate-1']"],
    ),
    "not its own pods": (
        ORDERS, "spec.selector.matchLabels", {"app": "postgres"},
        ["its selector matches the pods of ['StatefulSet/holdfast-postgres']"],
    ),
    "more than labels": (
        ORDERS, "spec.selector.matchExpressions", [],
        ["its selector matches the pods of ['Deployment/holdfast-orders']"],
    ),
    "a budget of nobody": (
        "PodDisruptionBudget/orders", "spec.selector.matchLabels", {"app": "order"},
        ["its selector matches the pods of []"],
    ),
    "a budget of too many": (
        "PodDisruptionBudget/orders", "spec.selector.matchLabels", {"app": "orders"},
        ["its selector matches the pods of ['Deployment/holdfast-orders', 'Job/holdfast-migrate-1']"],
    ),
    "pods that are spread beside others": (
        ORDERS, f"{POD}.topologySpreadConstraints", [{"labelSelector": {"matchLabels": {"app": "postgres"}}}],
        ["its selector matches the pods of ['StatefulSet/holdfast-postgres']"],
    ),
    "a policy for nobody": (
        "NetworkPolicy/postgres", "spec.podSelector.matchLabels", {"app": "mysql"}, ["its selector matches no pods"],
    ),
}  # fmt: skip
REFERENCES = {
    "a ConfigMap": (ORDERS, f"{POD}.volumes.0.configMap.name", "other", "there is no ConfigMap/other"),
    "a projected Secret": (
        ORDERS, f"{POD}.volumes.1.projected.sources.0.secret.name", "other", "there is no Secret/other",
    ),
    "a key of a projected Secret": (
        ORDERS, f"{POD}.volumes.1.projected.sources.0.secret.items.0.key", "passwrod",
        "Secret/holdfast-orders has no key passwrod",
    ),
    "a Secret as a volume": (
        ORDERS, f"{POD}.volumes.0", {"name": "common", "secret": {"secretName": "other"}}, "there is no Secret/other",
    ),
    "a claim": (
        ORDERS, f"{POD}.volumes.2.persistentVolumeClaim.claimName", "other", "there is no PersistentVolumeClaim/other",
    ),
    "a file of a ConfigMap": (
        ORDERS, f"{POD}.containers.0.volumeMounts.0.subPath", "config.yml",
        "ConfigMap/holdfast-common has no key config.yml",
    ),
    "a variable from a ConfigMap": (
        ORDERS, f"{POD}.containers.0.env.0.valueFrom.configMapKeyRef.key", "levle",
        "ConfigMap/holdfast-common has no key levle",
    ),
    "variables from a Secret": (
        ORDERS, f"{POD}.containers.0.envFrom.0.secretRef.name", "other", "there is no Secret/other",
    ),
    "an account": (ORDERS, f"{POD}.serviceAccountName", "other", "there is no ServiceAccount/other"),
    "a pull secret": (ORDERS, f"{POD}.imagePullSecrets.0.name", "other", "there is no Secret/other"),
    "the Service of a StatefulSet": (
        "StatefulSet/postgres", "spec.serviceName", "other", "there is no Service/other",
    ),
    "something that a hook runs before": (
        "Job/migrate-1", "metadata.annotations", {"helm.sh/hook": "post-install, pre-upgrade"},
        "runs before ConfigMap/holdfast-common is made",
    ),
}  # fmt: skip


def rendering(**edits: tuple[str, object]) -> Rendering:
    """The good objects, with one thing set in some of them."""
    return Rendering(
        objects=tuple(changed(found, *edits[name]) if name in edits else found for name, found in OBJECTS.items())
    )


def test_good_objects_are_not_complained_of() -> None:
    good = rendering()
    assert service_problems(good) == selector_problems(good) == reference_problems(good) == []


@pytest.mark.parametrize(("path", "value", "complaint"), SERVICES.values(), ids=SERVICES)
def test_a_service_that_selects_the_wrong_pods_or_ports_is_named(path: str, value: object, complaint: str) -> None:
    assert service_problems(rendering(**{"Service/orders": (path, value)})) == [f"Service/holdfast-orders: {complaint}"]


def test_a_service_for_one_version_only_is_named() -> None:
    version = {"app.kubernetes.io/version": "0.1.0"}
    labels = {"app": "orders", "role": "api"} | version
    by_version = rendering(
        **{"Service/orders": ("spec.selector", labels), ORDERS: ("spec.template.metadata.labels", labels)}
    )
    complaint = "selects by app.kubernetes.io/version, which changes with an upgrade"
    assert service_problems(by_version) == [f"Service/holdfast-orders: {complaint}"]


@pytest.mark.parametrize(("name", "path", "value", "complaints"), SELECTORS.values(), ids=SELECTORS)
def test_a_selector_that_matches_the_wrong_pods_is_named(
    name: str, path: str, value: object, complaints: list[str]
) -> None:
    problems = selector_problems(rendering(**{name: (path, value)}))
    assert [problem.partition(": ")[2] for problem in problems] == complaints


def test_a_selector_that_changes_with_an_upgrade_is_named() -> None:
    labels = {"app": "postgres", "helm.sh/chart": "holdfast-0.1.0"}
    by_chart = changed(OBJECTS["StatefulSet/postgres"], "spec.selector.matchLabels", labels)
    objects = (changed(by_chart, "spec.template.metadata.labels", labels),)
    assert selector_problems(Rendering(objects=objects)) == [
        "StatefulSet/holdfast-postgres: selects by helm.sh/chart, which changes with an upgrade"
    ]


@pytest.mark.parametrize(("name", "path", "value", "complaint"), REFERENCES.values(), ids=REFERENCES)
def test_what_is_referred_to_and_missing_is_named(name: str, path: str, value: object, complaint: str) -> None:
    problems = reference_problems(rendering(**{name: (path, value)}))
    assert [problem.partition(": ")[2] for problem in problems] == [complaint]


def test_what_somebody_else_makes_may_be_missing() -> None:
    elsewhere = rendering(**{ORDERS: (f"{POD}.imagePullSecrets.0.name", "registry")})
    assert reference_problems(elsewhere, existing={"Secret/registry"}) == []


def test_what_is_optional_may_be_missing() -> None:
    optional = {"name": "common", "configMap": {"name": "other", "optional": True}}
    assert reference_problems(rendering(**{ORDERS: (f"{POD}.volumes.0", optional)})) == []
