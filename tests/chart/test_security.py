"""Every pod of the platform is restricted, and every secret is where it belongs and nowhere else."""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from chassis.auth.api_keys import prefix_of
from our_services import SERVICES
from pod_files import decoded, files_of
from pod_security import house_problems, restricted_problems
from rendering import HOLDFAST, Json, Rendering, Workload, copy_of, forget, identity, nested, render, values_of

SHORTEST_SECRET = 16
"""Nothing that we generate is shorter; a shorter value may be a word that stands elsewhere too."""
SECRET_NAME = re.compile("pass|secret|token|key|dsn", re.IGNORECASE)
PASSWORD_IN_URL = re.compile(r"://[^/\s]*:[^/\s]*@")

BREAKS = {
    "templates/deployment.yaml": [
        ("runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot is not true"),
        ("seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}", "seccomp is Unconfined"),
        ("capabilities: {drop: [ALL]}", "capabilities: {drop: []}", "does not drop ALL capabilities"),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "allowPrivilegeEscalation is not false"),
        ("automountServiceAccountToken: false", "hostNetwork: true", "hostNetwork is set"),
        ("automountServiceAccountToken: false", "hostPID: true", "automountServiceAccountToken is not false"),
        ("enableServiceLinks: false", "enableServiceLinks: true", "enableServiceLinks is not false"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "readOnlyRootFilesystem is not true"),
    ],
    "templates/job.yaml": [
        ("runAsUser: 10001", "runAsUser: 0", "runAsUser is 0"),
        ("capabilities: {drop: [ALL]}", "privileged: true", "is privileged"),
    ],
    "templates/statefulset.yaml": [
        ("emptyDir: {medium: Memory, sizeLimit: 1Mi}", "emptyDir: {}", "has no sizeLimit"),
        ("emptyDir: {medium: Memory, sizeLimit: 1Mi}", "hostPath: {path: /run}", "is a hostPath"),
    ],
    "templates/tests/place-orders.yaml": [
        ("allowPrivilegeEscalation: false", "procMount: Unmasked", "allowPrivilegeEscalation is not false"),
    ],
    "values.yaml": [
        ('limits: {cpu: "1", memory: 256Mi}', "limits: {cpu: 1}", "has no resources.limits.memory"),
    ],
}  # fmt: skip


def problems(rendering: Rendering) -> list[str]:
    found = [restricted_problems(workload) + house_problems(workload) for workload in rendering.workloads]
    return [problem for each in found for problem in each]


def secrets_of(rendering: Rendering) -> dict[str, str]:
    """Every secret value, by `<Secret>.<key>`."""
    return {
        f"{found['metadata']['name']}.{key}": value
        for found in rendering.of_kind("Secret")
        for key, value in decoded(found).items()
        if len(value) >= SHORTEST_SECRET
    }


def mounted_secrets(rendering: Rendering, workload: Workload) -> set[str]:
    """The files of Secrets that any of its containers can read, by name."""
    found = {
        str(path): content
        for container in workload.containers
        for path, content in files_of(rendering, workload, container).items()
    }
    values = set(secrets_of(rendering).values())
    return {path.rpartition("/")[2] for path, content in found.items() if content in values}


def test_every_pod_passes_the_restricted_profile_and_ours(rendering: Rendering) -> None:
    assert len(rendering.workloads) >= 12
    assert problems(rendering) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [(file, *edit) for file, edits in BREAKS.items() for edit in edits],
)
def test_a_pod_that_is_less_restricted_is_found(tmp_path: Path, file: str, old: str, new: str, complaint: str) -> None:
    broken = render(copy_of(HOLDFAST, tmp_path, {file: (old, new)}))
    assert any(complaint in problem for problem in problems(broken)), problems(broken)


def test_our_images_run_as_the_user_that_they_were_made_for(rendering: Rendering) -> None:
    (user,) = set(
        re.findall(r"^USER (\d+:\d+)$", (HOLDFAST.parents[1] / "services/Dockerfile").read_text(), re.MULTILINE)
    )
    for workload in rendering.workloads:
        context = workload.pod["securityContext"]
        if any("holdfast/" in container["image"] for container in workload.containers):
            assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
        assert context["runAsUser"] > 0  # a name in the image would not prove to the kubelet that it is not root
        # The group of secret files, which everybody else may not read, and of volumes that are written to.
        assert context["fsGroup"] == context["runAsGroup"]


def test_no_pod_has_the_account_that_a_namespace_gives_to_all(rendering: Rendering) -> None:
    accounts = {workload.pod["serviceAccountName"] for workload in rendering.workloads}
    assert accounts == rendering.names("ServiceAccount")
    assert all(account["automountServiceAccountToken"] is False for account in rendering.of_kind("ServiceAccount"))


def test_only_the_running_container_of_a_service_is_writable_and_only_when_asked_for() -> None:
    writable = render(HOLDFAST, nested("rootFilesystem", value="writable"))
    found = {
        f"{workload.name} {container['name']}"
        for workload in writable.workloads
        for container in workload.containers
        if not container["securityContext"]["readOnlyRootFilesystem"]
    }
    roles = [(service, suffix, role) for service in SERVICES for suffix, role in (("", "api"), ("-worker", "worker"))]
    assert found == {f"Deployment/holdfast-{service}{suffix} {role}" for service, suffix, role in roles}


def leaks(rendering: Rendering) -> list[str]:
    """Every secret that stands outside of Secrets, as it is or in base64."""
    places = {identity(found): json.dumps(found) for found in rendering.objects if found["kind"] != "Secret"}
    places["the notes"] = rendering.notes
    return [
        f"{name} in {place}"
        for name, value in secrets_of(rendering).items()
        for place, text in places.items()
        if value in text or b64encode(value.encode()).decode() in text
    ]


def test_no_secret_stands_outside_of_secrets(rendering: Rendering) -> None:
    assert leaks(rendering) == []


@pytest.mark.parametrize("form", ["", "| b64dec"])
def test_a_secret_in_an_argument_is_found(tmp_path: Path, form: str) -> None:
    password = '(lookup "v1" "Secret" "holdfast" "holdfast-postgres").data.password'
    edit = ('(list "migrate"', f'(list "migrate" ({password} {form})')
    chart = copy_of(HOLDFAST, tmp_path, {"templates/job.yaml": edit})
    found = leaks(render(chart, existing=render(HOLDFAST).objects))
    assert len(found) == 2 * len(SERVICES)  # holdfast-generated has it too
    assert all("in Job/holdfast-" in leak for leak in found)


def spoken_passwords(container: Json) -> list[str]:
    """Variables and arguments that hold a password rather than the path of its file: a process list shows them."""
    words = [*container.get("command", []), *container.get("args", [])]
    pairs = [(variable["name"], variable.get("value", "")) for variable in container.get("env", [])]
    options = [(word, after) for word, after in pairwise([*words, ""]) if word.startswith("-")]
    pairs += [word.split("=", 1) if "=" in word else (word, after) for word, after in options]
    from_secrets = [each["name"] for each in container.get("env", []) if "secretKeyRef" in each.get("valueFrom", {})]
    from_secrets += [each["secretRef"]["name"] for each in container.get("envFrom", []) if "secretRef" in each]
    return from_secrets + [
        name
        for name, value in pairs
        if (SECRET_NAME.search(name) and value and not value.startswith("/")) or PASSWORD_IN_URL.search(value)
    ]


def test_no_variable_and_no_argument_holds_a_password(rendering: Rendering) -> None:
    containers = [container for workload in rendering.workloads for container in workload.containers]
    assert [found for container in containers for found in spoken_passwords(container)] == []


@pytest.mark.parametrize(
    "container",
    [
        {"args": ["--requirepass", "hunter2"]},
        {"command": ["sh", "--api-key=hunter2"]},
        {"args": ["--dsn", "postgresql://orders:hunter2@db/orders"]},
        {"env": [{"name": "POSTGRES_PASSWORD", "value": "hunter2"}]},
        {"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "orders", "key": "token"}}}]},
        {"envFrom": [{"secretRef": {"name": "orders"}}]},
    ],
    ids=json.dumps,
)
def test_a_password_in_a_variable_or_an_argument_is_found(container: Json) -> None:
    assert len(spoken_passwords(container)) == 1


def test_the_path_of_a_password_is_none() -> None:
    words = ["--secrets-dir=/run/secrets", "--api-key-file", "/run/secrets/api-key"]
    assert spoken_passwords({"args": words, "env": [{"name": "PASSWORD_FILE", "value": "/run/secrets/p"}]}) == []


def test_secrets_are_mounted_read_only_and_for_the_group_alone(rendering: Rendering) -> None:
    for workload in rendering.workloads:
        volumes = {volume["name"]: volume for volume in workload.pod.get("volumes", []) if _has_secret(volume)}
        for volume in volumes.values():
            assert (volume.get("secret") or volume["projected"])["defaultMode"] == 0o440, volume
        mounts = [mount for container in workload.containers for mount in container.get("volumeMounts", [])]
        assert all(mount["readOnly"] for mount in mounts if mount["name"] in volumes)


def _has_secret(volume: Mapping[str, Json]) -> bool:
    return "secret" in volume or any("secret" in source for source in volume.get("projected", {}).get("sources", []))


def test_each_pod_is_given_its_own_secrets_and_no_others(platform: Rendering) -> None:
    found = {workload.name: mounted_secrets(platform, workload) for workload in platform.workloads}
    common = {"database__password", "redis__password", "management__token", "log__debug_key"}
    own = {
        "orders": {"auth__peppers", "payments__token_secret"},
        "payments": {"auth__service_secrets", "provider__api_key"},
        "notifications": {"auth__peppers"},
        "webhook-ingest": {"webhook_secrets__payment_provider"},
    }
    databases = [service.replace("-", "_") for service in SERVICES]
    expected = {
        f"Deployment/holdfast-{name}{role}": common | own[name] for name in SERVICES for role in ("", "-worker")
    }
    expected |= {
        "Deployment/holdfast-valkey": {"users.acl"},
        "StatefulSet/holdfast-postgres": {
            "password",
            *(f"{it}_{role}" for it in databases for role in ("owner", "app")),
        },
        "StatefulSet/holdfast-payment-provider": {"api_key", "webhook_secret"},
        "StatefulSet/holdfast-mailbox": set(),
        "StatefulSet/holdfast-customer-endpoint": set(),
        "Pod/holdfast-place-orders": {"api-key"},
    }
    migrations = {name: {"database__password", "database__migration_password"} for name in found if "Job/" in name}
    assert len(migrations) == len(SERVICES)
    for name, secrets in migrations.items():
        if "-orders-" in name or "-notifications-" in name:  # they register their clients, too
            secrets |= {"auth__peppers", *CLIENTS}
    assert found == expected | migrations


CLIENTS = ("acme", "globex", "initech")


def test_every_installation_has_passwords_of_its_own() -> None:
    one = secrets_of(render(HOLDFAST))
    forget()
    other = secrets_of(render(HOLDFAST))
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] == other[name]] == []
    generated = [value for name, value in one.items() if name.startswith("holdfast-generated.")]
    assert len(set(generated)) == len(generated) >= 16
    assert min(map(len, generated)) >= 43  # 256 bits in base64


def test_an_upgrade_keeps_every_password_of_this_release_in_this_namespace() -> None:
    first = render(HOLDFAST, release="shop", namespace="trade")
    upgraded = render(HOLDFAST, release="shop", namespace="trade", revision=2, existing=first.objects)
    assert secrets_of(upgraded) == secrets_of(first)
    neighbour = render(HOLDFAST, release="stall", namespace="trade", existing=first.objects)
    assert not set(secrets_of(neighbour).values()) & set(secrets_of(first).values())


def test_a_new_client_gets_a_key_and_nobody_else_another() -> None:
    first = render(HOLDFAST)
    clients = [*values_of(HOLDFAST)["secrets"]["clients"], "umbrella"]
    second = render(HOLDFAST, nested("secrets.clients", value=clients), revision=2, existing=first.objects)
    before, after = secrets_of(first), secrets_of(second)
    assert after.keys() - before.keys() == {"holdfast-generated.client_umbrella"}
    assert {name for name, value in before.items() if after[name] != value} == set()


def test_whoever_takes_a_client_away_is_told_that_its_key_still_works_and_how_to_end_it() -> None:
    first = render(HOLDFAST)
    keys = {client: secrets_of(first)[f"holdfast-generated.client_{client}"] for client in CLIENTS}
    second = render(HOLDFAST, nested("secrets.clients", value=["acme"]), revision=2, existing=first.objects)
    assert f"globex ({prefix_of(keys['globex'])}), initech ({prefix_of(keys['initech'])})" in second.notes
    assert prefix_of(keys["acme"]) not in second.notes
    assert not [key for key in keys.values() if key in second.notes]
    assert "WARNING" not in first.notes
    assert "WARNING" not in render(HOLDFAST, revision=2, existing=first.objects).notes


def test_a_new_client_restarts_no_pod_and_a_job_of_its_own_registers_it() -> None:
    first = render(HOLDFAST)
    second = render(HOLDFAST, nested("secrets.clients", value=[*CLIENTS, "umbrella"]))
    for before, after in zip(first.of_kind("Deployment"), second.of_kind("Deployment"), strict=True):
        assert before == after
    jobs = {job["metadata"]["name"] for job in first.of_kind("Job")}
    new = [job for job in second.of_kind("Job") if job["metadata"]["name"] not in jobs]
    assert sorted(job["metadata"]["labels"]["app.kubernetes.io/name"] for job in new) == ["notifications", "orders"]
    for job in new:
        (volume,) = (one for one in job["spec"]["template"]["spec"]["volumes"] if one["name"] == "clients")
        assert {"key": "client_umbrella", "path": "umbrella"} in volume["secret"]["items"]


def test_where_keys_are_not_generated_no_job_registers_any() -> None:
    rendering = render(HOLDFAST, values_of(HOLDFAST, "values-prod.yaml"), nested("secrets.clients", value=["acme"]))
    jobs = [workload for workload in rendering.workloads if workload.name.startswith("Job/")]
    assert len(jobs) == len(SERVICES)
    for job in jobs:
        assert [container["args"][0] for container in job.pod["containers"]] == ["migrate"]
        assert "clients" not in {volume["name"] for volume in job.pod["volumes"]}


def test_where_secrets_are_not_generated_the_chart_makes_none() -> None:
    assert render(HOLDFAST, values_of(HOLDFAST, "values-prod.yaml")).of_kind("Secret") == []


@pytest.mark.parametrize(
    ("value", "ours"), [("existingSecret", "holdfast-orders"), ("existingMigrationSecret", "holdfast-orders-migrate")]
)
def test_a_secret_of_ones_own_is_not_made_as_well(value: str, ours: str) -> None:
    rendering = render(HOLDFAST, nested(f"services.orders.{value}", value="mine"))
    assert render(HOLDFAST).names("Secret") - rendering.names("Secret") == {ours}
