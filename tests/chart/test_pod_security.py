"""The checker of pods, on pods that are wrong in one way each. What it says of the charts is in test_security."""

import pytest
from pod_security import house_problems, quantity, restricted_problems
from rendering import Json, Workload, changed, without

CONTAINER: Json = {
    "name": "main",
    "image": "holdfast/orders:0.1.0",
    "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "192Mi"}},
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    },
}
POD: Json = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
    "volumes": [
        {"name": "configuration", "configMap": {"name": "holdfast-orders"}},
        {"name": "scratch", "emptyDir": {"sizeLimit": "16Mi"}},
    ],
    "initContainers": [CONTAINER | {"name": "first"}],
    "containers": [CONTAINER],
}

SAYS = {
    "hostNetwork": ("hostNetwork", True, "hostNetwork is set"),
    "hostPID": ("hostPID", True, "hostPID is set"),
    "hostIPC": ("hostIPC", True, "hostIPC is set"),
    "a sysctl that reaches the node": (
        "securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "sysctl kernel.msgmax",
    ),
    "a folder of the node": (
        "volumes.0", {"name": "node", "hostPath": {"path": "/"}}, "volume node is a hostPath",
    ),
    "a network file system": (
        "volumes.0", {"name": "share", "nfs": {"server": "s", "path": "/"}}, "volume share is a nfs",
    ),
    "a pod as a Windows host process": (
        "securityContext.windowsOptions", {"hostProcess": True}, "pod: hostProcess is set",
    ),
    "a container as a Windows host process": (
        "containers.0.securityContext.windowsOptions", {"hostProcess": True}, "container main: hostProcess is set",
    ),
    "a pod without AppArmor": (
        "securityContext.appArmorProfile", {"type": "Unconfined"}, "pod: AppArmor profile Unconfined",
    ),
    "an SELinux type of its own": (
        "securityContext.seLinuxOptions", {"type": "spc_t"}, "pod: SELinux options {'type': 'spc_t'}",
    ),
    "an SELinux user": (
        "containers.0.securityContext.seLinuxOptions", {"user": "root"},
        "container main: SELinux options {'user': 'root'}",
    ),
    "an SELinux role": (
        "securityContext.seLinuxOptions", {"role": "sysadm_r"}, "pod: SELinux options {'role': 'sysadm_r'}",
    ),
    "a container that says it may be root": (
        "containers.0.securityContext.runAsNonRoot", False,
        "container main: runAsNonRoot is false", "container main: runAsNonRoot is not true",
    ),
    "a pod that says it may be root, though its containers may not": (
        "securityContext.runAsNonRoot", False, "pod: runAsNonRoot is false",
        "container first: runAsNonRoot is not true", "container main: runAsNonRoot is not true",
    ),
    "root by number in the pod": ("securityContext.runAsUser", 0, "pod: runAsUser is 0"),
    "root by number in an init container": (
        "initContainers.0.securityContext.runAsUser", 0, "container first: runAsUser is 0",
    ),
    "a privileged init container": (
        "initContainers.0.securityContext.privileged", True, "container first: is privileged",
    ),
    "a capability more": (
        "containers.0.securityContext.capabilities.add", ["SYS_ADMIN", "NET_BIND_SERVICE"],
        "container main: adds capabilities SYS_ADMIN",
    ),
    "only some capabilities dropped": (
        "containers.0.securityContext.capabilities.drop", ["NET_RAW"], "container main: does not drop ALL capabilities",
    ),
    "an unmasked /proc": (
        "containers.0.securityContext.procMount", "Unmasked", "container main: procMount is Unmasked",
    ),
    "a port of the node": (
        "containers.0.ports", [{"containerPort": 8000, "hostPort": 80}], "container main: hostPort 80",
    ),
    "a probe of another host": (
        "containers.0.livenessProbe", {"httpGet": {"host": "169.254.169.254", "port": 80}},
        "container main: a probe or hook asks the host 169.254.169.254",
    ),
    "a hook of another host": (
        "containers.0.lifecycle", {"preStop": {"httpGet": {"host": "metadata", "port": 80}}},
        "container main: a probe or hook asks the host metadata",
    ),
    "seccomp switched off in a container": (
        "containers.0.securityContext.seccompProfile", {"type": "Unconfined"},
        "container main: seccomp is Unconfined", "container main: has no seccomp profile",
    ),
}  # fmt: skip
LACKS = {
    "securityContext.runAsNonRoot": (
        "container first: runAsNonRoot is not true", "container main: runAsNonRoot is not true",
    ),
    "securityContext.seccompProfile": (
        "container first: has no seccomp profile", "container main: has no seccomp profile",
    ),
    "containers.0.securityContext.allowPrivilegeEscalation": (
        "container main: allowPrivilegeEscalation is not false",
    ),
    "initContainers.0.securityContext.capabilities": ("container first: does not drop ALL capabilities",),
    "containers.0.securityContext": (
        "container main: allowPrivilegeEscalation is not false", "container main: does not drop ALL capabilities",
    ),
}  # fmt: skip
HOUSE = {
    "a token": ("automountServiceAccountToken", True, "automountServiceAccountToken is not false"),
    "variables of other services": ("enableServiceLinks", True, "enableServiceLinks is not false"),
    "processes that see each other": ("shareProcessNamespace", True, "shareProcessNamespace is set"),
    "a token by another way": (
        "volumes.0", {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        "volume token has a service account's token",
    ),
    "scratch space without an end": ("volumes.1.emptyDir", {}, "volume scratch has no sizeLimit"),
    "a root that can be written": (
        "containers.0.securityContext.readOnlyRootFilesystem", False,
        "container main: readOnlyRootFilesystem is not true",
    ),
    "memory without a limit": (
        "containers.0.resources.limits", {"cpu": 1}, "container main: has no resources.limits.memory",
    ),
    "an init container that asks for nothing": (
        "initContainers.0.resources.requests", None,
        "container first: has no resources.requests.cpu", "container first: has no resources.requests.memory",
    ),
    "more asked for than allowed": (
        "containers.0.resources.requests.memory", "1Gi", "container main: asks for more memory than its limit",
    ),
}  # fmt: skip


def workload(pod: Json = POD, annotations: dict[str, str] | None = None) -> Workload:
    object_ = {"kind": "Pod", "metadata": {"name": "orders"}}
    return Workload(object=object_, labels={}, annotations=annotations or {}, pod=pod)


def test_a_pod_that_follows_every_rule_is_not_complained_of() -> None:
    assert restricted_problems(workload()) == []
    assert house_problems(workload()) == []


@pytest.mark.parametrize(("path", "value", "complaints"), [(p, v, c) for p, v, *c in SAYS.values()], ids=SAYS)
def test_what_the_restricted_profile_forbids_is_named(path: str, value: object, complaints: list[str]) -> None:
    found = restricted_problems(workload(changed(POD, path, value)))
    assert found == [f"Pod/orders: {complaint}" for complaint in complaints]


@pytest.mark.parametrize(("path", "complaints"), LACKS.items(), ids=LACKS)
def test_what_the_restricted_profile_asks_for_is_missed(path: str, complaints: tuple[str, ...]) -> None:
    found = restricted_problems(workload(without(POD, path)))
    assert found == [f"Pod/orders: {complaint}" for complaint in complaints]


def test_only_who_asks_kubernetes_may_have_a_token() -> None:
    with_token = workload(changed(POD, "automountServiceAccountToken", True))
    assert house_problems(with_token, may_ask_kubernetes=True) == []


def test_an_apparmor_profile_by_the_old_annotation_counts() -> None:
    annotation = "container.apparmor.security.beta.kubernetes.io/main"
    assert restricted_problems(workload(annotations={annotation: "runtime/default"})) == []
    found = restricted_problems(workload(annotations={annotation: "unconfined"}))
    assert found == ["Pod/orders: AppArmor profile unconfined by annotation"]


@pytest.mark.parametrize(("path", "value", "complaints"), [(p, v, c) for p, v, *c in HOUSE.values()], ids=HOUSE)
def test_what_this_project_asks_of_a_pod_is_missed(path: str, value: object, complaints: list[str]) -> None:
    found = house_problems(workload(changed(POD, path, value)))
    assert found == [f"Pod/orders: {complaint}" for complaint in complaints]


def test_quantities_are_read_as_kubernetes_reads_them() -> None:
    assert [quantity(text) for text in ("250m", "1.5", 2, "64Mi", "1G")] == [0.25, 1.5, 2, 67_108_864, 10**9]
    with pytest.raises(ValueError, match="64mb"):
        quantity("64mb")
