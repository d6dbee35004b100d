"""Who selects whose pods, and who refers to what: nothing may select too much, and nothing may be missing."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from rendering import Json, Rendering, Workload, hooks, identity

UNSTABLE = {"app.kubernetes.io/version", "helm.sh/chart"}
"""Labels that change with an upgrade. A selector cannot change, and a Service's must match old and new pods."""
CONTROLLERS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")


class Reference(NamedTuple):
    """That `by` needs the object `kind`/`name`, and in it the `keys`."""

    by: Json
    kind: str
    name: str
    keys: tuple[str, ...] = ()


def selected(rendering: Rendering, selector: Mapping[str, str]) -> list[Workload]:
    """The workloads whose pods have these labels."""
    return [workload for workload in rendering.workloads if selector.items() <= workload.labels.items()]


def service_problems(rendering: Rendering) -> list[str]:
    """Every Service selects the pods of exactly one workload, and its target ports are named by those pods."""
    return [f"{identity(service)}: {it}" for service in rendering.of_kind("Service") for it in _of(service, rendering)]


def selector_problems(rendering: Rendering) -> list[str]:
    """Every controller selects its own pods and nobody else's, by labels that an upgrade leaves alone."""
    problems = []
    for found in rendering.of_kind(*CONTROLLERS):
        selector = found["spec"]["selector"]
        problems += _not_only(rendering.workload(identity(found)), found, selector, rendering)
        problems += [f"{identity(found)}: {it}" for it in _unstable(selector.get("matchLabels") or {})]
    for workload in rendering.workloads:
        for constraint in workload.pod.get("topologySpreadConstraints", []):
            problems += _not_only(workload, workload.object, constraint["labelSelector"], rendering)
    for budget in rendering.of_kind("PodDisruptionBudget"):
        names = [workload.name for workload in selected(rendering, budget["spec"]["selector"].get("matchLabels") or {})]
        if len(names) != 1:
            problems.append(f"{identity(budget)}: its selector matches the pods of {names}")
    for policy in rendering.of_kind("NetworkPolicy"):
        if not selected(rendering, policy["spec"]["podSelector"].get("matchLabels") or {}):
            problems.append(f"{identity(policy)}: its selector matches no pods")
    return problems


def reference_problems(rendering: Rendering, *, existing: Collection[str] = ()) -> list[str]:
    """Everything that a pod refers to is rendered, with the keys it asks for. `existing`: made by somebody else.

    A hook that runs before the release must find what it refers to then: only other such hooks are there already.
    """
    problems = []
    for reference in references(rendering):
        name = f"{reference.kind}/{reference.name}"
        found = next((each for each in rendering.objects if identity(each) == name), None)
        if found is None:
            if name not in existing:
                problems.append(f"{identity(reference.by)}: there is no {name}")
            continue
        missing = set(reference.keys) - keys_of(found)
        problems += [f"{identity(reference.by)}: {name} has no key {key}" for key in sorted(missing)]
        if _is_early(reference.by) and not _is_early(found):
            problems.append(f"{identity(reference.by)}: runs before {name} is made")
    return problems


def references(rendering: Rendering) -> Iterator[Reference]:
    for workload in rendering.workloads:
        by, pod = workload.object, workload.pod
        yield from _of_volumes(workload)
        for container in workload.containers:
            yield from _of_environment(by, container)
        if name := pod.get("serviceAccountName"):
            yield Reference(by, "ServiceAccount", name)
        for secret in pod.get("imagePullSecrets", []):
            yield Reference(by, "Secret", secret["name"])
        if by["kind"] == "StatefulSet" and by["spec"].get("serviceName"):
            yield Reference(by, "Service", by["spec"]["serviceName"])


def keys_of(found: Json) -> set[str]:
    return {key for field in ("data", "stringData", "binaryData") for key in found.get(field) or {}}


def _not_only(workload: Workload, by: Json, selector: Json, rendering: Rendering) -> list[str]:
    """A complaint unless the selector of `by` matches the pods of this workload and no others, by labels alone."""
    names = [found.name for found in selected(rendering, selector.get("matchLabels") or {})]
    if names == [workload.name] and selector.keys() == {"matchLabels"}:
        return []
    return [f"{identity(by)}: its selector matches the pods of {names}"]


def _of(service: Json, rendering: Rendering) -> Iterator[str]:
    selector = service["spec"].get("selector") or {}
    yield from _unstable(selector)
    workloads = selected(rendering, selector) if selector else []
    if len(workloads) != 1 or workloads[0].object["kind"] not in CONTROLLERS:
        yield f"selects the pods of {[workload.name for workload in workloads]}"
        return
    (workload,) = workloads
    names = {port.get("name") for container in workload.pod["containers"] for port in container.get("ports", [])}
    for port in service["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        if target not in names:
            yield f"{workload.name} names no port {target!r}"


def _unstable(selector: Mapping[str, str]) -> Iterator[str]:
    yield from (f"selects by {label}, which changes with an upgrade" for label in sorted(UNSTABLE & selector.keys()))


def _of_volumes(workload: Workload) -> Iterator[Reference]:
    mounts = [mount for container in workload.containers for mount in container.get("volumeMounts", [])]
    for volume in workload.pod.get("volumes", []):
        sub_paths = tuple(
            mount["subPath"] for mount in mounts if mount["name"] == volume["name"] and "subPath" in mount
        )
        for source in (volume, *volume.get("projected", {}).get("sources", [])):
            yield from _of_source(workload.object, source, sub_paths)
        if claim := volume.get("persistentVolumeClaim"):
            yield Reference(workload.object, "PersistentVolumeClaim", claim["claimName"])


def _of_source(by: Json, source: Mapping[str, Any], sub_paths: tuple[str, ...]) -> Iterator[Reference]:
    """A volume, or one source of a projected one."""
    for field, kind, name in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
        if field in source and not source[field].get("optional"):
            items = tuple(item["key"] for item in source[field].get("items", []))
            yield Reference(by, kind, source[field].get(name) or source[field]["name"], items or sub_paths)


def _of_environment(by: Json, container: Json) -> Iterator[Reference]:
    for variable in container.get("env", []):
        value_from = variable.get("valueFrom") or {}
        for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if field in value_from and not value_from[field].get("optional"):
                yield Reference(by, kind, value_from[field]["name"], (value_from[field]["key"],))
    for source in container.get("envFrom", []):
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if field in source and not source[field].get("optional"):
                yield Reference(by, kind, source[field]["name"])


def _is_early(found: Json) -> bool:
    return bool({"pre-install", "pre-upgrade"} & set(hooks(found)))
