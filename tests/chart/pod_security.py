"""The restricted Pod Security profile of Kubernetes 1.34, and what this project asks of a pod beyond it.

The profile is https://kubernetes.io/docs/concepts/security/pod-security-standards/, baseline included, control by
control in its order. Kubernetes relaxes some of it for pods with a user namespace and for Windows; we have neither.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from rendering import Json, Workload

VOLUME_TYPES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}  # fmt: skip
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
SUFFIXES = {"": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def restricted_problems(workload: Workload) -> list[str]:
    """What a namespace with the label `pod-security.kubernetes.io/enforce: restricted` would refuse it for."""
    return [f"{workload.name}: {problem}" for problem in (*_of_pod(workload), *_of_containers(workload))]


def house_problems(workload: Workload, *, may_ask_kubernetes: bool = False) -> list[str]:
    """Ours: a read-only root, no token (but for who asks Kubernetes' API), no variables of other services, bounds."""
    return [f"{workload.name}: {problem}" for problem in _house(workload, may_ask_kubernetes=may_ask_kubernetes)]


def quantity(text: str | float) -> Decimal:
    """`250m` → 0.25, `64Mi` → 67108864."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if not found or found[2] not in SUFFIXES:
        raise ValueError(f"not a quantity of Kubernetes: {text!r}")
    return Decimal(found[1]) * SUFFIXES[found[2]]


def _of_pod(workload: Workload) -> Iterator[str]:
    pod = workload.pod
    context = pod.get("securityContext") or {}
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} is set"
    for annotation, profile in workload.annotations.items():
        if annotation.startswith(APPARMOR_ANNOTATION) and not re.fullmatch("runtime/default|localhost/.*", profile):
            yield f"AppArmor profile {profile} by annotation"
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    for volume in pod.get("volumes", []):
        if not VOLUME_TYPES & volume.keys():
            yield f"volume {volume['name']} is a {', '.join(volume.keys() - {'name'}) or 'nothing'}"
    yield from _of_either(context, "pod")


def _of_containers(workload: Workload) -> Iterator[str]:
    inherited = workload.pod.get("securityContext") or {}
    for container in workload.containers:
        name = f"container {container['name']}"
        context = container.get("securityContext") or {}
        yield from _of_either(context, name)
        yield from (f"{name}: {problem}" for problem in _of_container(container, context))
        effective = {**inherited, **context}
        if effective.get("runAsNonRoot") is not True:
            yield f"{name}: runAsNonRoot is not true"
        if (effective.get("seccompProfile") or {}).get("type") not in {"RuntimeDefault", "Localhost"}:
            yield f"{name}: has no seccomp profile"


def _of_either(context: Mapping[str, Any], place: str) -> Iterator[str]:
    """What may be said for a pod as for a container, and is forbidden in both."""
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{place}: hostProcess is set"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in {"RuntimeDefault", "Localhost"}:
        yield f"{place}: AppArmor profile {context['appArmorProfile']['type']}"
    options = context.get("seLinuxOptions", {})
    if options.get("type", "") not in SELINUX_TYPES or options.get("user") or options.get("role"):
        yield f"{place}: SELinux options {options}"
    if context.get("seccompProfile", {}).get("type") == "Unconfined":
        yield f"{place}: seccomp is Unconfined"
    if context.get("runAsNonRoot") is False:
        yield f"{place}: runAsNonRoot is false"
    if context.get("runAsUser") == 0:
        yield f"{place}: runAsUser is 0"


def _of_container(container: Json, context: Mapping[str, Any]) -> Iterator[str]:
    if context.get("privileged"):
        yield "is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "does not drop ALL capabilities"
    if added := set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"adds capabilities {', '.join(sorted(added))}"
    if context.get("procMount", "Default") != "Default":
        yield f"procMount is {context['procMount']}"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"
    yield from _foreign_hosts(container)


def _foreign_hosts(container: Json) -> Iterator[str]:
    """Probes and hooks may ask the pod itself only: the kubelet would ask any other host from the node's network."""
    handlers = [container.get(probe, {}) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers += container.get("lifecycle", {}).values()
    for handler in handlers:
        for action in ("httpGet", "tcpSocket"):
            if host := handler.get(action, {}).get("host"):
                yield f"a probe or hook asks the host {host}"


def _house(workload: Workload, *, may_ask_kubernetes: bool) -> Iterator[str]:
    pod = workload.pod
    if pod.get("automountServiceAccountToken") is not False and not may_ask_kubernetes:
        yield "automountServiceAccountToken is not false"
    if pod.get("enableServiceLinks") is not False:
        yield "enableServiceLinks is not false"
    if pod.get("shareProcessNamespace"):
        yield "shareProcessNamespace is set"
    for volume in pod.get("volumes", []):
        if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", [])):
            yield f"volume {volume['name']} has a service account's token"
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"volume {volume['name']} has no sizeLimit"
    for container in workload.containers:
        for problem in _house_container(container):
            yield f"container {container['name']}: {problem}"


def _house_container(container: Json) -> Iterator[str]:
    if (container.get("securityContext") or {}).get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for group, name, found in (
        ("requests", "cpu", requests),
        ("requests", "memory", requests),
        ("limits", "memory", limits),
    ):
        if name not in found:
            yield f"has no resources.{group}.{name}"
    for name in requests.keys() & limits.keys():
        if quantity(requests[name]) > quantity(limits[name]):
            yield f"asks for more {name} than its limit"
