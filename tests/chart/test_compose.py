"""The platform in containers (infra/compose.yaml): hardened, complete, and configured as the code reads it."""

import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from chassis import config
from chassis.config import layers as config_layers
from chassis.config.settings import BudgetSettings, ServiceSettings
from chassis.pooling.budget import Share, pool_budget
from compose_file import (
    AT_HAND,
    CONTAINERS,
    FILE,
    INFRA,
    KEYS,
    MIGRATIONS,
    PROCESSES,
    STAYING,
    megabytes,
    mounts,
    published,
    secrets_folder,
    service_of,
)
from holdfast_local.compose_secrets import make_secrets
from holdfast_local.secrets import SCOPES
from holdfast_local.settings import LocalSettings
from notifications.settings import NotificationsSettings
from oracle.sources import Sources
from orders.settings import OrdersSettings
from payments.settings import PaymentsSettings
from webhook_ingest.settings import WebhookIngestSettings

SETTINGS: dict[str, type[ServiceSettings]] = {
    settings.service_name: settings
    for settings in (OrdersSettings, PaymentsSettings, NotificationsSettings, WebhookIngestSettings)
}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state") / "compose"
    make_secrets(folder)
    return folder


@pytest.fixture
def as_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the shell or of an `.env` reaches the settings, as in a container."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(variable)


def place_layers(container: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the layers of configuration those that are mounted into the container, where the code looks by default."""
    given = mounts(container)
    for variable, place in config_layers.LOCATIONS.items():
        source, _ = given[place]
        path = secrets / (secrets_folder(container) or "") if place == "/run/secrets/holdfast" else INFRA / source
        monkeypatch.setenv(variable, str(path))


def load(container: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> ServiceSettings:
    place_layers(container, secrets, monkeypatch)
    return config.load(SETTINGS[service_of(container)])


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_bounded_and_may_do_little(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["pids_limit"] <= 100
    assert megabytes(container["mem_limit"]) <= 512
    assert not {"privileged", "cap_add", "network_mode", "pid", "env_file"} & set(container)
    is_ours = container["image"].startswith("holdfast/")  # our images name their account themselves
    assert container.get("user") == (None if is_ours else "999:999")


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_is_mounted_from_the_host_is_read_only(name: str) -> None:
    for source, is_read_only in mounts(name).values():
        assert is_read_only or source in FILE["volumes"]


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_says_whether_it_is_ready_and_comes_back(name: str) -> None:
    assert CONTAINERS[name]["healthcheck"]["test"]
    assert CONTAINERS[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", CONTAINERS)
def test_ports_are_those_of_the_bare_machine_and_only_on_loopback(name: str) -> None:
    assert len(published(name)) == len(CONTAINERS[name].get("ports", []))
    for address, variable, port, _ in published(name):
        assert address == "127.0.0.1"
        assert LocalSettings.model_fields[variable.removeprefix("LOCAL_").lower()].default == port


@pytest.mark.parametrize("name", CONTAINERS)
def test_only_what_is_published_has_a_way_out(name: str) -> None:
    assert FILE["networks"]["platform"] == {"internal": True}
    expected = ["platform", "published"] if "ports" in CONTAINERS[name] else ["platform"]
    assert CONTAINERS[name]["networks"] == expected


@pytest.mark.usefixtures("as_container")
@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_finds_valid_settings(name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(name, secrets, monkeypatch)
    assert (settings.http.host, settings.management.host) == ("0.0.0.0", "0.0.0.0")
    assert (settings.database.host, settings.redis.host) == ("postgres", "valkey")
    assert settings.database.migration_password is None
    for _, _, _, inside in published(name):
        assert settings.http.port == inside


@pytest.mark.usefixtures("as_container")
@pytest.mark.parametrize("name", MIGRATIONS)
def test_a_migration_finds_its_role_and_no_other_secret(
    name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_layers(name, secrets, monkeypatch)
    database = config.load_database(SETTINGS[service_of(name)])
    assert database.migration_user == f"{database.name}_owner"
    assert database.migration_password
    given = {file.name for file in (secrets / name).iterdir()}
    registers = {"auth__peppers"} if f"{service_of(name)}-keys" in KEYS else set()
    assert given == {"database__password", "database__migration_password"} | registers


@pytest.mark.parametrize("name", KEYS)
def test_the_clients_keys_are_registered_once_the_schema_is_there(name: str) -> None:
    container = CONTAINERS[name]
    assert secrets_folder(name) == f"{service_of(name)}-migrate"
    assert mounts(name)["/run/secrets/clients"][0] == "../.holdfast/compose/clients"
    assert container["depends_on"] == {f"{service_of(name)}-migrate": {"condition": "service_completed_successfully"}}
    scopes = [word for scope in SCOPES[service_of(name)] for word in ("--scope", scope)]
    assert container["command"] == ["api-keys", "register", "/run/secrets/clients", *scopes]
    assert set(SCOPES[service_of(name)]) == SETTINGS[service_of(name)].scopes


@pytest.mark.usefixtures("as_container")
def test_addresses_of_dependencies_are_containers(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = load("orders-worker", secrets, monkeypatch)
    payments = load("payments-worker", secrets, monkeypatch)
    notifications = load("notifications-worker", secrets, monkeypatch)
    assert isinstance(orders, OrdersSettings)
    assert isinstance(payments, PaymentsSettings)
    assert isinstance(notifications, NotificationsSettings)
    assert urlsplit(orders.payments.base_url).netloc == "payments-api:8000"
    assert urlsplit(payments.provider.base_url).netloc == "payment-provider:8101"
    assert (notifications.smtp.host, notifications.smtp.port) == ("mailbox", 8125)
    assert {"payments-api", "payment-provider", "mailbox"} < set(CONTAINERS)


@pytest.mark.usefixtures("as_container")
@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_has_the_time_to_drain(name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutdown = load(name, secrets, monkeypatch).shutdown
    granted = float(CONTAINERS[name]["stop_grace_period"].removesuffix("s"))
    assert granted >= shutdown.grace_period


@pytest.mark.usefixtures("as_container")
def test_postgres_has_connections_for_every_pool(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {
        service: Share(
            pool=database.pool_size + database.max_overflow, api_replicas=1, worker_replicas=1, generations=1
        )
        for service in {service_of(name) for name in PROCESSES}
        for database in [load(f"{service}-api", secrets, monkeypatch).database]
    }
    needed = pool_budget(shares, reserve=BudgetSettings().reserve).total
    (setting,) = [word for word in CONTAINERS["postgres"]["command"] if word.startswith("max_connections=")]
    assert int(setting.removeprefix("max_connections=")) >= needed


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_waits_for_its_schema(name: str) -> None:
    before = [one for one in (f"{service_of(name)}-migrate", f"{service_of(name)}-keys") if one in CONTAINERS]
    assert CONTAINERS[name]["depends_on"] == {
        **{one: {"condition": "service_completed_successfully"} for one in before},
        "valkey": {"condition": "service_healthy"},
    }


def test_images_have_the_version_of_the_tree() -> None:
    lines = (INFRA.parent / "pyproject.toml").read_text().splitlines()
    (version,) = [line.split('"')[1] for line in lines if line.startswith("version = ")]
    for container in CONTAINERS.values():
        repository, _, tag = container["image"].partition(":")
        assert not repository.startswith("holdfast/") or tag == f"${{IMAGE_TAG:-{version}}}"


def test_valkey_evicts_before_its_limit_ends_it() -> None:
    lines = (INFRA / "compose" / "valkey.conf").read_text().splitlines()
    (kept,) = [megabytes(line.split()[1].removesuffix("b")) for line in lines if line.startswith("maxmemory ")]
    assert kept + 32 < megabytes(CONTAINERS["valkey"]["mem_limit"])


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_folder_of_secrets_that_is_mounted_is_made(name: str, secrets: Path) -> None:
    folder = secrets_folder(name)
    assert folder is None or any((secrets / folder).iterdir())


def test_containers_may_read_secrets_and_other_people_may_not(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in secrets.rglob("*")}
    assert modes == {0o755, 0o444}


def test_postgres_is_told_the_passwords_that_services_use(secrets: Path) -> None:
    for service in SETTINGS:
        database = service.replace("-", "_")
        given = {role: (secrets / "postgres" / f"{database}_{role}").read_text() for role in ("owner", "app")}
        assert given["app"] == (secrets / service / "database__password").read_text()
        assert given["owner"] == (secrets / f"{service}-migrate" / "database__migration_password").read_text()


def test_valkey_is_told_the_password_that_services_use(secrets: Path) -> None:
    password = (secrets / "valkey" / "password").read_text()
    assert (secrets / "valkey" / "valkey.conf").read_text() == f"requirepass {password}\n"
    assert {(secrets / service / "redis__password").read_text() for service in SETTINGS} == {password}


def test_oracle_finds_every_source_as_the_run_time_roles(secrets: Path) -> None:
    sources = Sources.load(secrets / "oracle" / "sources.toml", {})
    for service in SETTINGS:
        database = service.replace("-", "_")
        dsn = urlsplit(getattr(sources, f"{database}_dsn"))
        assert (dsn.hostname, dsn.path, dsn.username) == ("postgres", f"/{database}", f"{database}_app")
        assert dsn.password == (secrets / service / "database__password").read_text()
    assert {urlsplit(url).hostname for url in (sources.provider_url, sources.mailbox_url, sources.customer_url)} <= set(
        CONTAINERS
    )


def test_made_again_secrets_stay(secrets: Path) -> None:
    before = {path: path.read_text() for path in secrets.rglob("*") if path.is_file()}
    make_secrets(secrets)
    assert {path: path.read_text() for path in secrets.rglob("*") if path.is_file()} == before


def test_database_names_and_limits_of_the_bare_machine_hold_in_containers_too() -> None:
    for service in SETTINGS:
        ours = yaml.safe_load((INFRA / "compose" / f"{service}.yaml").read_text())
        bare = yaml.safe_load((INFRA / "local" / "config" / f"{service}.yaml").read_text())
        assert ours["database"] == bare["database"]
        assert ours.get("webhooks", {}).get("schedule") == bare.get("webhooks", {}).get("schedule")


def test_what_is_started_by_hand_is_not_started_with_the_rest() -> None:
    assert [name for name in CONTAINERS if CONTAINERS[name].get("profiles")] == AT_HAND
