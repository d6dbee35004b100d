"""What an API server refuses although the schemas allow it: names, labels, ports, keys and what they refer to in a pod.

https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ and …/labels/ have the rules for names.
"""

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rendering import Json, Rendering, Workload, identity

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
PROBES = {"startupProbe", "livenessProbe", "readinessProbe"}
HANDLERS = {"exec", "httpGet", "tcpSocket", "grpc"}
DATA_KEY = re.compile(r"(?!\.\.)[-._a-zA-Z0-9]{1,253}")
LARGEST_DATA = 1024 * 1024
REVISIONED, LONGEST_REVISIONED = {"StatefulSet", "DaemonSet", "CronJob"}, 52
"""Kubernetes adds 11 characters: to the value of the label `controller-revision-hash`, to the name of a Job."""
RESTART_POLICIES = {"Job": {"Never", "OnFailure"}, "CronJob": {"Never", "OnFailure"}, "Pod": {"Never", "OnFailure"}}


def refusals(rendering: Rendering, *, namespace: str = "holdfast") -> list[str]:
    """Why the API server would refuse objects of this rendering, or do something else with them than they say."""
    problems = [f"{name}: rendered twice" for name in _twice(map(identity, rendering.objects))]
    for found in rendering.objects:
        problems += [f"{identity(found)}: {problem}" for problem in _of_object(found, namespace)]
    for workload in rendering.workloads:
        problems += [f"{workload.name}: {problem}" for problem in _of_pod(workload)]
    return problems


def _of_object(found: Json, namespace: str) -> Iterator[str]:
    metadata = found["metadata"]
    if not DNS_LABEL.fullmatch(metadata["name"]):
        yield "its name is no DNS label of at most 63 characters"
    elif found["kind"] == "Service" and metadata["name"][0].isdigit():
        yield "the name of a Service begins with a letter"
    elif found["kind"] in REVISIONED and len(metadata["name"]) > LONGEST_REVISIONED:
        yield f"its name has more than {LONGEST_REVISIONED} characters"
    if metadata.get("namespace", namespace) != namespace:
        yield f"it is for the namespace {metadata['namespace']}"
    yield from _labels(metadata.get("labels") or {})
    match found["kind"]:
        case "Service":
            yield from _of_service(found["spec"])
        case "ConfigMap" | "Secret":
            yield from _of_data(found)
        case "PersistentVolumeClaim":
            yield from _of_claim(found)
        case "StatefulSet":
            for claim in found["spec"].get("volumeClaimTemplates", []):
                yield from _of_claim(claim)


def _labels(labels: Mapping[str, str]) -> Iterator[str]:
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key):
            yield f"label key {key!r}"
        if not LABEL_VALUE.fullmatch(value):
            yield f"label {key} has the value {value!r}"


def _of_service(service: Json) -> Iterator[str]:
    ports = service["ports"]
    if len(ports) > 1 and not all(port.get("name") for port in ports):
        yield "several ports, and not each has a name"
    yield from (f"two ports are called {name}" for name in _twice(port.get("name") for port in ports))
    yield from (f"port {number} twice" for number in _twice(port["port"] for port in ports))


def _of_data(found: Json) -> Iterator[str]:
    plain = found.get("data" if found["kind"] == "ConfigMap" else "stringData") or {}
    encoded = found.get("binaryData" if found["kind"] == "ConfigMap" else "data") or {}
    for key, text in encoded.items():
        try:
            base64.b64decode(text, validate=True)
        except binascii.Error:
            yield f"{key} is not base64"
    yield from (f"key {key!r}" for key in {**plain, **encoded} if not DATA_KEY.fullmatch(key))
    if sum(len(text.encode()) for text in (*plain.values(), *encoded.values())) > LARGEST_DATA:
        yield "more than 1 MiB"


def _of_claim(claim: Json) -> Iterator[str]:
    spec = claim.get("spec") or {}
    if not spec.get("accessModes"):
        yield f"claim {claim['metadata']['name']} has no accessModes"
    if not (spec.get("resources") or {}).get("requests", {}).get("storage"):
        yield f"claim {claim['metadata']['name']} does not say how much"


def _of_pod(workload: Workload) -> Iterator[str]:
    pod = workload.pod
    yield from (f"pod {problem}" for problem in _labels(workload.labels))
    allowed = RESTART_POLICIES.get(workload.object["kind"], {"Always"})
    if pod.get("restartPolicy", "Always") not in allowed:
        yield f"restartPolicy must be {' or '.join(sorted(allowed))}"
    containers, claims = workload.containers, workload.object["spec"].get("volumeClaimTemplates", [])
    volumes = [volume["name"] for volume in pod.get("volumes", [])] + [claim["metadata"]["name"] for claim in claims]
    yield from (f"two containers are called {name}" for name in _twice(container["name"] for container in containers))
    yield from (f"two volumes are called {name}" for name in _twice(volumes))
    names = [port.get("name") for container in containers for port in container.get("ports", [])]
    yield from (f"two ports are called {name}" for name in _twice(names))
    mounted = {mount["name"] for container in containers for mount in container.get("volumeMounts", [])}
    yield from (f"volume {name} is mounted nowhere" for name in volumes if name not in mounted)
    for name in (*volumes, *(container["name"] for container in containers)):
        if not DNS_LABEL.fullmatch(name):
            yield f"{name!r} is no DNS label"
    for container in containers:
        yield from (f"container {container['name']}: {problem}" for problem in _of_container(container, volumes))


def _of_container(container: Json, volumes: Iterable[str]) -> Iterator[str]:
    if not container.get("image"):
        yield "has no image"
    for name in PROBES & container.keys():
        if len(container[name].keys() & HANDLERS) != 1:
            yield f"{name} does not say what to ask"
    mounts = container.get("volumeMounts", [])
    yield from (f"there is no volume {mount['name']}" for mount in mounts if mount["name"] not in volumes)
    yield from (f"two mounts at {path}" for path in _twice(mount["mountPath"].rstrip("/") for mount in mounts))
    yield from (f"variable {name} is given twice" for name in _twice(each["name"] for each in container.get("env", [])))
    ports = container.get("ports", [])
    for port in ports:
        if not PORT_NAME.fullmatch(port.get("name", "nameless")):
            yield f"port name {port['name']!r}"
    for probe, action, handler in probes(container):
        if handler["port"] not in {port.get("name") for port in ports}:
            yield f"{probe}.{action} asks the port {handler['port']!r}, which has no such name in this container"
        if probe != "readinessProbe" and container[probe].get("successThreshold", 1) != 1:
            yield f"{probe}.successThreshold must be 1"


def probes(container: Json) -> Iterator[tuple[str, str, Json]]:
    """`("livenessProbe", "httpGet", {"path": "/livez", "port": "management"})`, for those that ask a port."""
    for probe in sorted(PROBES):
        for action in sorted(HANDLERS - {"exec"}):
            if handler := container.get(probe, {}).get(action):
                yield probe, action, handler


def _twice(names: Iterable[Any]) -> list[Any]:
    return [name for name, times in Counter(names).items() if times > 1 and name is not None]
