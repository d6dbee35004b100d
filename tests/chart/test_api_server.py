"""The checker of what an API server refuses, on objects that are wrong in one way each."""

import pytest
import yaml
from api_server import refusals
from rendering import Json, Rendering, changed, schema_problems

DEPLOYMENT: Json = yaml.safe_load("""
    apiVersion: apps/v1
    kind: Deployment
    metadata:
      name: holdfast-orders
      labels: {app.kubernetes.io/name: holdfast}
    spec:
      selector: {matchLabels: {app: orders}}
      template:
        metadata: {labels: {app: orders}}
        spec:
          volumes:
            - {name: common, configMap: {name: holdfast-common}}
            - {name: scratch, emptyDir: {}}
          initContainers:
            - {name: wait, image: orders, volumeMounts: [{name: common, mountPath: /etc/common}]}
          containers:
            - name: api
              image: orders
              env: [{name: A, value: "1"}, {name: B, value: "2"}]
              ports: [{name: http, containerPort: 8000}, {name: management, containerPort: 9000}]
              livenessProbe: {httpGet: {path: /livez, port: management}}
              volumeMounts:
                - {name: common, mountPath: /etc/common}
                - {name: scratch, mountPath: /tmp}
""")
SERVICE: Json = yaml.safe_load("""
    apiVersion: v1
    kind: Service
    metadata: {name: holdfast-orders}
    spec:
      selector: {app: orders}
      ports: [{name: http, port: 8000, targetPort: http}, {name: other, port: 8001, targetPort: http}]
""")
SECRET: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "holdfast-orders"}, "data": {"key": "a2V5"}}
CONFIG_MAP: Json = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "holdfast-common"},
    "data": {"a": "1"},
}
SCRATCH: Json = {"name": "scratch", "mountPath": "/tmp"}
POD = "spec.template.spec"
API = f"{POD}.containers.0"

REFUSED = {
    "a name with capitals": (SERVICE, "metadata.name", "Orders", "its name is no DNS label of at most 63 characters"),
    "a name of 64 characters": (
        DEPLOYMENT, "metadata.name", "o" * 64, "its name is no DNS label of at most 63 characters",
    ),
    "a Service that starts with a digit": (
        SERVICE, "metadata.name", "1-orders", "the name of a Service begins with a letter",
    ),
    "another namespace": (SERVICE, "metadata.namespace", "default", "it is for the namespace default"),
    "a label's key": (DEPLOYMENT, "metadata.labels", {"a b": "c"}, "label key 'a b'"),
    "a label's value": (DEPLOYMENT, "metadata.labels", {"a": "b/c"}, "label a has the value 'b/c'"),
    "a label of a pod": (
        DEPLOYMENT, "spec.template.metadata.labels", {"app": "o" * 64}, f"pod label app has the value '{'o' * 64}'",
    ),
    "a nameless port beside another": (SERVICE, "spec.ports.0.name", "", "several ports, and not each has a name"),
    "two ports of one name": (SERVICE, "spec.ports.1.name", "http", "two ports are called http"),
    "a port twice": (SERVICE, "spec.ports.1.port", 8000, "port 8000 twice"),
    "a secret that is not base64": (SECRET, "data.key", "not base64!", "key is not base64"),
    "a key that is a path": (CONFIG_MAP, "data", {"a/b": "1"}, "key 'a/b'"),
    "a ConfigMap of more than 1 MiB": (CONFIG_MAP, "data.a", "a" * 2**21, "more than 1 MiB"),
    "a Deployment whose pods may end": (DEPLOYMENT, f"{POD}.restartPolicy", "Never", "restartPolicy must be Always"),
    "two containers of one name": (DEPLOYMENT, f"{API}.name", "wait", "two containers are called wait"),
    "a container's name": (DEPLOYMENT, f"{API}.name", "the_api", "'the_api' is no DNS label"),
    "two ports of a pod": (DEPLOYMENT, f"{API}.ports.0.name", "management", "two ports are called management"),
    "a port's name": (
        DEPLOYMENT, f"{API}.ports.0.name", "an-overlong-name", "container api: port name 'an-overlong-name'",
    ),
    "a volume that nobody mounts": (
        DEPLOYMENT, f"{API}.volumeMounts", [], "volume scratch is mounted nowhere",
    ),
    "a mount of nothing": (
        DEPLOYMENT, f"{POD}.initContainers.0.volumeMounts.0.name", "comon", "container wait: there is no volume comon",
    ),
    "two mounts at one place": (
        DEPLOYMENT, f"{API}.volumeMounts.1.mountPath", "/etc/common/", "container api: two mounts at /etc/common",
    ),
    "a variable twice": (DEPLOYMENT, f"{API}.env.1.name", "A", "container api: variable A is given twice"),
    "a probe of a port by number": (
        DEPLOYMENT, f"{API}.livenessProbe.httpGet.port", 9000,
        "container api: livenessProbe.httpGet asks the port 9000, which has no such name in this container",
    ),
    "a container of nothing": (DEPLOYMENT, f"{API}.image", "", "container api: has no image"),
    "a probe of nothing": (
        DEPLOYMENT, f"{API}.readinessProbe", {"periodSeconds": 5},
        "container api: readinessProbe does not say what to ask",
    ),
    "a liveness probe that must pass twice": (
        DEPLOYMENT, f"{API}.livenessProbe.successThreshold", 2,
        "container api: livenessProbe.successThreshold must be 1",
    ),
}  # fmt: skip


def refused(*objects: Json) -> list[str]:
    return refusals(Rendering(objects=objects))


def test_good_objects_are_not_complained_of() -> None:
    objects = (DEPLOYMENT, SERVICE, SECRET, CONFIG_MAP)
    assert [problem for found in objects for problem in schema_problems(found)] == []
    assert refused(*objects) == []


@pytest.mark.parametrize(("found", "path", "value", "complaint"), REFUSED.values(), ids=REFUSED)
def test_what_the_api_server_refuses_is_named(found: Json, path: str, value: object, complaint: str) -> None:
    problems = refused(changed(found, path, value))
    assert [problem.partition(": ")[2] for problem in problems] == [complaint]


def test_an_object_that_is_rendered_twice_is_named() -> None:
    assert refused(SERVICE, SECRET, SERVICE) == ["Service/holdfast-orders: rendered twice"]


def test_a_job_whose_pods_start_again_for_ever_is_named() -> None:
    job = changed(changed(DEPLOYMENT, "kind", "Job"), "metadata.name", "migrate")
    assert refused(job) == ["Job/migrate: restartPolicy must be Never or OnFailure"]
    assert refused(changed(job, f"{POD}.restartPolicy", "Never")) == []


def test_the_name_of_a_stateful_set_leaves_room_for_a_hash() -> None:
    stateful = changed(DEPLOYMENT, "kind", "StatefulSet")
    assert refused(changed(stateful, "metadata.name", "a" * 52)) == []
    assert refused(changed(stateful, "metadata.name", "a" * 53)) == [
        f"StatefulSet/{'a' * 53}: its name has more than 52 characters"
    ]


def test_a_volume_claim_template_can_be_mounted() -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    stateful = changed(changed(DEPLOYMENT, "kind", "StatefulSet"), "spec.volumeClaimTemplates", [claim])
    name = "StatefulSet/holdfast-orders"
    assert refused(stateful) == [f"{name}: volume data is mounted nowhere"]
    mounted = changed(stateful, f"{API}.volumeMounts", [{"name": "data", "mountPath": "/data"}, SCRATCH])
    assert refused(mounted) == []
    assert refused(changed(mounted, "spec.volumeClaimTemplates.0.spec", {})) == [
        f"{name}: claim data has no accessModes",
        f"{name}: claim data does not say how much",
    ]
