"""The chart and the code agree: what is rendered starts the real settings; ports, paths and times are the code's."""

import json
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from api_server import probes
from chassis import config
from chassis.app.cli import EXIT_CONFIGURATION
from chassis.errors import ConfigurationError
from chassis.process.health import CHECK_TIMEOUT, Health
from chassis.process.management_app import management_app
from notifications.settings import NotificationsSettings
from orders.settings import OrdersSettings
from our_services import SETTINGS
from pod_files import Enter, files_of, with_secrets
from rendering import (
    HOLDFAST,
    Json,
    Rendering,
    Workload,
    copy_of,
    leaves,
    merge,
    nested,
    render,
    values_files,
    values_of,
)
from starlette.routing import Route

ROLES = ("api", "worker")


def deployment(rendering: Rendering, service: str, role: str) -> Workload:
    return rendering.workload(f"Deployment/holdfast-{service}{'-worker' if role == 'worker' else ''}")


def migration(rendering: Rendering, service: str) -> Workload:
    (found,) = (it for it in rendering.workloads if it.name.startswith(f"Job/holdfast-{service}-migrate-"))
    return found


def main(workload: Workload) -> Json:
    (container,) = workload.pod["containers"]
    return container


def port(container: Json, name: str) -> int:
    (number,) = (each["containerPort"] for each in container["ports"] if each["name"] == name)
    return number


@pytest.fixture(scope="session", params=["values.yaml", *values_files(HOLDFAST)])
def installed(request: pytest.FixtureRequest) -> Rendering:
    """One rendering for each environment, with Secrets."""
    return with_secrets(render(HOLDFAST, values_of(HOLDFAST, request.param)))


def scaled_to(rendering: Rendering, service: str) -> int | None:
    """The most APIs that a HorizontalPodAutoscaler makes, if there is one."""
    found = [
        it for it in rendering.of_kind("HorizontalPodAutoscaler") if it["metadata"]["name"] == f"holdfast-{service}"
    ]
    return found[0]["spec"]["maxReplicas"] if found else None


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("service", SETTINGS)
def test_what_is_rendered_starts_the_real_settings(enter: Enter, installed: Rendering, service: str, role: str) -> None:
    workload = deployment(installed, service, role)
    container = main(workload)
    enter(installed, workload, container)
    settings = config.load(SETTINGS[service])
    assert (settings.http.host, settings.management.host) == ("*", "*")  # a pod has IPv4, IPv6 or both
    assert settings.management.port == port(container, "management")
    if role == "api":
        assert settings.http.port == port(container, "http")
        assert settings.rate_limit.replicas == workload.object["spec"].get("replicas", scaled_to(installed, service))
    # Routing lags behind readiness; a developer's single node less, and he waits for it at each change.
    assert settings.shutdown.readiness_delay >= (1 if settings.environment == "dev" else 5)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("service", SETTINGS)
def test_every_setting_that_has_to_be_given_is_in_a_file_of_its_pod(
    installed: Rendering, service: str, role: str
) -> None:
    required = {name for name, field in config.settings_of(SETTINGS[service]).items() if field.is_required()}
    assert required >= {"database.name", "database.user", "database.password"}
    workload = deployment(installed, service, role)
    given = set()
    for path, text in files_of(installed, workload, main(workload)).items():
        is_secret = path.is_relative_to("/run/secrets/holdfast")
        given |= {path.name.replace("__", ".")} if is_secret else {name for name, _ in leaves(yaml.safe_load(text))}
    assert required - given == set()


@pytest.mark.parametrize("service", SETTINGS)
def test_migrations_have_the_database_of_their_service_as_its_owner(
    enter: Enter, installed: Rendering, service: str
) -> None:
    workload = deployment(installed, service, "api")
    enter(installed, workload, main(workload))
    runtime = config.load(SETTINGS[service]).database
    job = migration(installed, service)
    enter(installed, job, main(job))
    owner = config.load_database(SETTINGS[service])
    assert owner.migration_user
    assert owner.migration_password
    assert owner.migration_user != owner.user
    assert runtime.migration_password is None
    assert (owner.host, owner.port, owner.name) == (runtime.host, runtime.port, runtime.name)


@pytest.mark.parametrize("service", SETTINGS)
def test_waiting_for_the_schema_needs_nothing_that_its_container_has_not(
    enter: Enter, installed: Rendering, service: str
) -> None:
    for role in ROLES:
        workload = deployment(installed, service, role)
        (waiting,) = workload.pod["initContainers"]
        assert waiting["image"] == main(workload)["image"]
        enter(installed, workload, waiting)
        assert config.load_database(SETTINGS[service]).password


def test_every_value_reaches_the_settings_as_it_was_given(enter: Enter) -> None:
    """Helm reads numbers as floats, and YAML makes something else of many a text."""
    given = {
        "http.max_body_bytes": 1_234_567,
        "outbox.inbox_retention": 1_209_600.5,
        "cache.ttl_jitter": 0.07,
        "redis.timeout": 1e-05,
        "rate_limit.tiers": {"gold": 2.5, "no": 1.0},
        "database.user": "yes",
        "smtp.host": "0x10",
        "database.name": "1e3",
        "webhooks.schedule": (0.5, 86_400.0, 1_000_000.0),
        "webhooks.egress.allow_insecure": True,
        "webhooks.egress.allowed_ports": (443, 8103),
    }
    values = merge(*(nested(f"services.notifications.config.{name}", value=value) for name, value in given.items()))
    rendering = render(HOLDFAST, values)
    workload = deployment(rendering, "notifications", "worker")
    enter(rendering, workload, main(workload))
    settings = config.load(NotificationsSettings)
    assert {name: attrgetter(name)(settings) for name in given} == given


def test_a_variable_reaches_every_container_of_its_service_and_no_other(enter: Enter) -> None:
    rendering = render(HOLDFAST, nested("services.orders.env", value={"HOLDFAST_DATABASE__HOST": "elsewhere"}))
    workloads = [*(deployment(rendering, "orders", role) for role in ROLES), migration(rendering, "orders")]
    for workload in workloads:
        for container in workload.containers:
            enter(rendering, workload, container)
            assert config.load_database(OrdersSettings).host == "elsewhere"
    others = [workload for workload in rendering.workloads if workload not in workloads]
    assert "HOLDFAST_" not in json.dumps([workload.pod for workload in others])


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("templates/_config.tpl", 'dict "host" "*"', 'dict "hots" "*"', "HOLDFAST_HTTP__HOTS: no such"),
        (
            "templates/secret.yaml",
            '"database__password"',
            '"database__passwort"',
            "HOLDFAST_DATABASE__PASSWORD: has no",
        ),
        ("templates/secret.yaml", "(list $secrets.orders_pepper |", "(list 1 |", "HOLDFAST_AUTH__PEPPERS"),
        ("templates/deployment.yaml", "/run/secrets/holdfast", "/run/secrets/orders", "HOLDFAST_DATABASE__PASSWORD"),
    ],
)
def test_a_name_or_a_place_that_the_code_does_not_know_is_found(
    enter: Enter, tmp_path: Path, file: str, old: str, new: str, problem: str
) -> None:
    broken = render(copy_of(HOLDFAST, tmp_path, {file: (old, new)}))
    workload = deployment(broken, "orders", "api")
    enter(broken, workload, main(workload))
    with pytest.raises(ConfigurationError) as invalid:
        config.load(OrdersSettings)
    assert any(problem in found for found in invalid.value.problems), invalid.value.problems


def test_probes_and_scraping_ask_paths_and_ports_that_the_code_has(platform: Rendering) -> None:
    routes = {
        route.path for route in management_app(Health(), {}, token=lambda: None).routes if isinstance(route, Route)
    }
    for service in SETTINGS:
        for role in ROLES:
            workload = deployment(platform, service, role)
            container = main(workload)
            asked = {probe: (handler["path"], handler["port"]) for probe, _, handler in probes(container)}
            assert asked == {
                "startupProbe": ("/startupz", "management"),
                "livenessProbe": ("/livez", "management"),
                "readinessProbe": ("/readyz", "management"),
            }
            scraped = {key.partition("/")[2]: text for key, text in workload.annotations.items() if "prometheus" in key}
            assert scraped == {"scrape": "true", "port": str(port(container, "management")), "path": "/metrics"}
            assert {path for path, _ in asked.values()} | {scraped["path"]} <= routes
            # The answer then names the dependency that did not answer.
            assert container["readinessProbe"]["timeoutSeconds"] > CHECK_TIMEOUT


def test_probes_are_patient_with_a_slow_node_and_quick_to_take_a_pod_out(platform: Rendering) -> None:
    for service in SETTINGS:
        for role in ROLES:
            container = main(deployment(platform, service, role))
            seconds = {
                name: probe["periodSeconds"] * probe["failureThreshold"]
                for name, probe in container.items()
                if name.endswith("Probe")
            }
            assert seconds["startupProbe"] >= 60  # it takes 3 s; a busy node may take 20 times as long
            assert seconds["livenessProbe"] >= 30  # a restart heals only what hangs, and costs whatever runs
            assert seconds["readinessProbe"] <= 10
            assert container["startupProbe"]["periodSeconds"] == 1


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("service", SETTINGS)
def test_what_each_container_runs_is_a_command_of_the_service(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, platform: Rendering, service: str, role: str
) -> None:
    command = import_module(f"{service.replace('-', '_')}.cli").main
    containers = [*deployment(platform, service, role).containers, *migration(platform, service).containers]
    registers = ["api-keys"] if service in {"orders", "notifications"} else []
    assert [container["args"][0] for container in containers] == ["wait-for-schema", role, "migrate", *registers]
    for container in containers:
        assert "command" not in container  # the image's entry point is the service's command
        monkeypatch.setattr("sys.argv", [service, *container["args"], "--help"])
        with pytest.raises(SystemExit) as ended:
            command()
        assert ended.value.code == 0, capsys.readouterr().err


def test_a_migration_is_tried_again_unless_what_it_was_told_is_wrong(platform: Rendering) -> None:
    for service in SETTINGS:
        job = migration(platform, service)
        spec = job.object["spec"]
        assert spec["backoffLimit"] >= 6  # the bundled database may take minutes to start
        rule, disrupted = spec["podFailurePolicy"]["rules"]
        assert disrupted == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        assert rule["action"] == "FailJob"
        assert rule["onExitCodes"] == {"operator": "In", "values": [EXIT_CONFIGURATION]}
        assert spec["ttlSecondsAfterFinished"] >= 3600  # long enough to look at what went wrong
