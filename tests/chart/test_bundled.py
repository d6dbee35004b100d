"""The servers and simulators that come along know the passwords, places and options of those who use them."""

import json
import re
from argparse import Namespace
from importlib import import_module
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pytest
from chassis.auth.api_keys import prefix_of
from chassis.config import settings_of
from holdfast_local.ports import free_port
from holdfast_local.valkey import EmbeddedValkey
from our_services import SERVICES, SETTINGS
from pod_files import decoded, files_of
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from rendering import HOLDFAST, Json, Rendering
from webhook_ingest.models import Provider
from webhook_ingest.routes import router

TOOLS = {
    "StatefulSet/holdfast-payment-provider": "simulators.payment_provider",
    "StatefulSet/holdfast-mailbox": "simulators.mailbox",
    "StatefulSet/holdfast-customer-endpoint": "simulators.customer_endpoint",
    "Pod/holdfast-place-orders": "simulators.customer",
}


def secret(rendering: Rendering, name: str) -> dict[str, str]:
    return decoded(rendering.get("Secret", f"holdfast-{name}"))


def files(rendering: Rendering, name: str) -> dict[str, str]:
    """What the only container of this workload can read, by path."""
    workload = rendering.workload(name)
    (container,) = workload.containers
    return {str(path): content for path, content in files_of(rendering, workload, container).items()}


def test_postgres_is_given_the_passwords_of_both_roles_of_every_database(platform: Rendering) -> None:
    found = files(platform, "StatefulSet/holdfast-postgres")
    # create-databases.sh looks in the default folder of HOLDFAST_PASSWORDS_DIR.
    passwords = {
        PurePosixPath(path).name: text for path, text in found.items() if path.startswith("/run/secrets/holdfast/")
    }
    expected = {}
    for service in SERVICES:
        database = service.replace("-", "_")
        expected[f"{database}_owner"] = secret(platform, f"{service}-migrate")["database__migration_password"]
        expected[f"{database}_app"] = secret(platform, service)["database__password"]
    assert passwords == expected
    script = (HOLDFAST / "files/create-databases.sh").read_text()
    assert found["/docker-entrypoint-initdb.d/create-databases.sh"].strip() == script.strip()


def test_postgres_reads_its_own_password_from_a_file(platform: Rendering) -> None:
    (container,) = platform.workload("StatefulSet/holdfast-postgres").containers
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    found = files(platform, "StatefulSet/holdfast-postgres")
    assert found[variables["POSTGRES_PASSWORD_FILE"]] == secret(platform, "postgres")["password"]


class RenderedValkey(EmbeddedValkey):
    """The server of this machine, as the chart configures it but for places, address and port."""

    def __init__(self, folder: Path, rendering: Rendering, *, password: str) -> None:
        super().__init__(folder, port=free_port(), password=password)
        (container,) = rendering.workload("Deployment/holdfast-valkey").containers
        self._words = container["command"]
        self._files = files(rendering, "Deployment/holdfast-valkey")

    def configure(self) -> None:
        (self._folder / "users.acl").write_text(self._files["/run/secrets/valkey/users.acl"])
        configuration = self._files[self._words[1]]
        for old, new in {
            "aclfile /run/secrets/valkey/": f"aclfile {self._folder}/",
            "bind * -::*": f"bind {self.host}",
            "port 6379": f"port {self.port}",
            "dir /tmp": f"dir {self._folder}",
        }.items():
            assert old in configuration
            configuration = configuration.replace(old, new)
        self._configuration.write_text(configuration)

    def command(self) -> list[str | Path]:
        assert self._words[0] == "valkey-server"
        return [*super().command(), *self._words[2:]]


async def test_valkey_starts_as_it_is_configured_and_lets_only_the_services_in(
    platform: Rendering, tmp_path: Path
) -> None:
    (password,) = {secret(platform, service)["redis__password"] for service in SERVICES}
    async with RenderedValkey(tmp_path, platform, password=password) as server:
        assert await server.answers()
        async with Redis(host=server.host, port=server.port, password=password) as services:
            assert await services.config_get("maxmemory", "maxmemory-policy", "save", "appendonly") == {
                "maxmemory": str(128 * 2**20),
                "maxmemory-policy": "volatile-lfu",
                "save": "",
                "appendonly": "no",
            }
        async with Redis(host=server.host, port=server.port, retry=Retry(NoBackoff(), 0)) as anybody:
            with pytest.raises(AuthenticationError):
                await anybody.ping()
    assert password not in secret(platform, "valkey")["users.acl"]


def test_what_keeps_something_never_runs_twice_at_once(platform: Rendering) -> None:
    (valkey,) = (it for it in platform.of_kind("Deployment") if it["metadata"]["name"] == "holdfast-valkey")
    assert valkey["spec"]["strategy"] == {"type": "Recreate"}
    alone = [valkey, *platform.of_kind("StatefulSet")]
    assert {found["metadata"]["name"]: found["spec"]["replicas"] for found in alone} == {
        "holdfast-valkey": 1,
        "holdfast-postgres": 1,
        "holdfast-payment-provider": 1,
        "holdfast-mailbox": 1,
        "holdfast-customer-endpoint": 1,
    }


def test_volumes_go_with_the_release_whose_passwords_are_in_them(platform: Rendering) -> None:
    for found in platform.of_kind("StatefulSet"):
        assert found["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Delete",
            "whenScaled": "Retain",
        }
        assert found["spec"]["serviceName"] == found["metadata"]["name"]


def test_postgres_keeps_a_data_folder_that_it_accepts_and_has_time_to_close_it(platform: Rendering) -> None:
    pod = platform.workload("StatefulSet/holdfast-postgres").pod
    # With `Always`, the folder is made writable for its group at every start, and PostgreSQL refuses such a one.
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert set(pod["containers"][0]) >= {"startupProbe", "readinessProbe"}


def test_each_client_has_a_key_of_ours_that_only_one_job_of_each_service_sees(platform: Rendering) -> None:
    generated = secret(platform, "generated")
    clients = {name.removeprefix("client_"): key for name, key in generated.items() if name.startswith("client_")}
    assert clients.keys() == {"acme", "globex", "initech"}
    assert len({prefix_of(key) for key in clients.values()}) == len(clients)
    for service, peppers in {
        name: secret(platform, name)["auth__peppers"] for name in ("orders", "notifications")
    }.items():
        (job,) = (one for one in platform.workloads if one.name.startswith(f"Job/holdfast-{service}-migrate"))
        (container,) = job.pod["containers"]
        found = {str(path): content for path, content in files_of(platform, job, container).items()}
        assert {found[f"/run/secrets/clients/{client}"] for client in clients} == set(clients.values())
        assert found["/run/secrets/holdfast/auth__peppers"] == peppers
        scopes = container["args"][3:]
        assert {scope for scope in scopes if scope != "--scope"} == SETTINGS[service].scopes


def test_orders_signs_with_what_payments_knows_of_it(platform: Rendering) -> None:
    signed_with = secret(platform, "orders")["payments__token_secret"]
    assert json.loads(secret(platform, "payments")["auth__service_secrets"]) == {"orders": [signed_with]}


def test_the_page_names_every_key_that_a_secret_of_ones_own_must_have(platform: Rendering) -> None:
    page = (HOLDFAST.parents[1] / "docs/tutorial/kubernetes.md").read_text()
    rows = dict(re.findall(r"^\| ([a-z '-]+) \| (`[a-z_]+__.+) \|$", page, re.MULTILINE))
    keys = {name: set(re.findall(r"`([a-z]+(?:_[a-z]+)*__[a-z_]+)`", text)) for name, text in rows.items()}
    assert keys["every service's migration"] == set(secret(platform, "orders-migrate"))
    for service in SERVICES:
        named = keys["every service"] | keys[service]
        assert set(secret(platform, service)) <= named
        assert {key.replace("__", ".") for key in named} <= settings_of(SETTINGS[service]).keys()


def test_the_provider_and_the_platform_know_each_others_secrets(platform: Rendering) -> None:
    provider = secret(platform, "payment-provider")
    assert secret(platform, "payments")["provider__api_key"] == provider["api_key"]
    secrets = json.loads(secret(platform, "webhook-ingest")["webhook_secrets__payment_provider"])
    assert secrets == [provider["webhook_secret"]]


def arguments(monkeypatch: pytest.MonkeyPatch, rendering: Rendering, name: str) -> Namespace:
    """What the program in this container makes of its arguments, if it takes them."""
    (container,) = rendering.workload(name).containers
    assert container["command"] == [TOOLS[name].rpartition(".")[2].replace("_", "-")]
    monkeypatch.setattr("sys.argv", [*container["command"], *container["args"]])
    parsed: Namespace = import_module(TOOLS[name]).parse_arguments()
    return parsed


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_takes_its_arguments_and_listens_where_its_service_leads(
    monkeypatch: pytest.MonkeyPatch, platform: Rendering, name: str
) -> None:
    parsed = vars(arguments(monkeypatch, platform, name))
    (container,) = platform.workload(name).containers
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    if ports:
        assert parsed["host"] == "*"
        assert ports.pop("smtp", None) == parsed.get("smtp_port")
        assert ports == {"http": parsed.get("port") or parsed["http_port"]}
        assert writable(container, parsed["database"])


def writable(container: Json, path: Path) -> bool:
    """Whether the container may write there: its root is read-only."""
    return any(
        path.is_relative_to(mount["mountPath"]) and not mount.get("readOnly") for mount in container["volumeMounts"]
    )


def test_the_provider_finds_its_secrets_and_sends_webhooks_to_a_route(
    monkeypatch: pytest.MonkeyPatch, platform: Rendering
) -> None:
    name = "StatefulSet/holdfast-payment-provider"
    parsed = arguments(monkeypatch, platform, name)
    found = files(platform, name)
    assert found[str(parsed.secrets_dir / "api_key")] == secret(platform, "payment-provider")["api_key"]
    assert found[str(parsed.secrets_dir / "webhook_secret")].startswith("whsec_")
    url = urlsplit(parsed.webhook_url)
    assert url.hostname == "holdfast-webhook-ingest"
    assert url.path == f"{router.prefix}/{Provider.PAYMENT_PROVIDER.value}"


def test_the_customer_endpoint_can_write_the_secrets_that_it_is_told(
    monkeypatch: pytest.MonkeyPatch, platform: Rendering
) -> None:
    name = "StatefulSet/holdfast-customer-endpoint"
    parsed = arguments(monkeypatch, platform, name)
    assert writable(platform.workload(name).containers[0], parsed.secrets_dir)


def test_helm_test_orders_with_the_key_of_a_client(monkeypatch: pytest.MonkeyPatch, platform: Rendering) -> None:
    parsed = arguments(monkeypatch, platform, "Pod/holdfast-place-orders")
    key = files(platform, "Pod/holdfast-place-orders")[str(parsed.api_key_file)]
    assert key == secret(platform, "generated")["client_acme"]
    assert parsed.orders_url.geturl() == "http://holdfast-orders:8000"
    assert parsed.orders == 3
    assert platform.workload("Pod/holdfast-place-orders").is_test
