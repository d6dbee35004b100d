"""What a running process takes over changes in place and starts no pod; anything else makes a new file, and rolls."""

from pathlib import Path

import pytest
import yaml
from chassis.config import settings_of
from chassis.process.reloading import allow_list
from our_services import SETTINGS
from rendering import HOLDFAST, Json, Rendering, Values, copy_of, merge, nested, render, values_of

HOT: Values = merge(
    nested("config.log.level", value="WARNING"),
    nested("config.http.max_concurrent_requests", value=100),
    nested("config.rate_limit.unauthenticated.burst", value=3),
    nested("config.rate_limit.tiers", value={"gold": 2}),
    nested("services.orders.config.rate_limit.burst", value=7),
    nested("services.orders.config.flags.stored_payment_status", value={"share": 0.5, "principals": ["acme"]}),
    nested("services.payments.config.auth.service_scopes.orders", value=["payments:read"]),
)
COLD = {
    "config.http.max_body_bytes": (1000, set(SETTINGS)),
    "config.rate_limit.local_keys": (10, set(SETTINGS)),  # the one of its group that is read once
    "config.database.host": ("elsewhere", set(SETTINGS)),
    "services.orders.config.pending_limit": (60, {"orders"}),
    "services.orders.config.database.user": ("other", {"orders"}),
    "services.orders.env": ({"HOLDFAST_LOG__LEVEL": "DEBUG"}, {"orders"}),  # variables are read once
    "services.notifications.config.smtp.port": (26, {"notifications"}),
}


def files(rendering: Rendering) -> dict[str, Json]:
    """Name → content of the ConfigMaps that hold settings."""
    found = [it for it in rendering.of_kind("ConfigMap") if "config.yaml" in it["data"]]
    return {it["metadata"]["name"]: yaml.safe_load(it["data"]["config.yaml"]) for it in found}


def rolled(before: Rendering, after: Rendering) -> set[str]:
    """The services of which pods are started anew."""
    names = before.names("Deployment") & after.names("Deployment")
    pods = {name: [it.workload(f"Deployment/{name}").pod for it in (before, after)] for name in names}
    annotations = {name: [it.workload(f"Deployment/{name}").annotations for it in (before, after)] for name in names}
    changed = {name for name in names if pods[name][0] != pods[name][1] or len(set(map(str, annotations[name]))) > 1}
    return {name.removeprefix("holdfast-").removesuffix("-worker") for name in changed}


def test_the_chart_knows_what_the_code_takes_over() -> None:
    """Secrets are in no ConfigMap."""
    listed = set(yaml.safe_load((HOLDFAST / "files/reloaded.yaml").read_text()))
    reloaded = set().union(*(allow_list(settings) for settings in SETTINGS.values()))
    assert listed <= reloaded
    secrets = reloaded - listed
    assert all(any(word in name for word in ("password", "secret", "pepper", "token")) for name in secrets), secrets
    assert listed <= set().union(*(settings_of(settings) for settings in SETTINGS.values()))


def test_what_is_taken_over_changes_its_file_in_place_and_starts_no_pod(platform: Rendering) -> None:
    changed = render(HOLDFAST, HOT)
    assert files(changed).keys() == files(platform).keys()
    assert {name for name, content in files(changed).items() if content != files(platform)[name]} == {
        name for name in files(platform) if any(part in name for part in ("-common-", "-orders-", "-payments-"))
    }
    assert rolled(platform, changed) == set()


@pytest.mark.parametrize(("path", "value", "services"), [(path, *it) for path, it in COLD.items()], ids=COLD)
def test_what_is_read_once_rolls_the_pods_that_read_it(
    platform: Rendering, path: str, value: object, services: set[str]
) -> None:
    assert rolled(platform, render(HOLDFAST, nested(path, value=value))) == services


def test_more_replicas_are_told_to_running_processes(platform: Rendering) -> None:
    changed = render(HOLDFAST, nested("services.orders.replicas", value=2))
    assert files(changed).keys() == files(platform).keys()
    assert changed.configuration("orders")["rate_limit"]["replicas"] == 2
    assert rolled(platform, changed) == set()


def test_an_old_pod_that_starts_again_during_an_upgrade_finds_the_file_that_it_knows(platform: Rendering) -> None:
    upgraded = render(HOLDFAST, nested("services.orders.config.pending_limit", value=60), revision=2)
    (old,) = files(platform).keys() - files(upgraded).keys()
    assert old.startswith("holdfast-orders-")
    # Helm does not delete what the new revision no longer has, if it says so itself.
    for name in files(platform):
        annotations = platform.get("ConfigMap", name)["metadata"]["annotations"]
        assert annotations == {"helm.sh/resource-policy": "keep"}


def test_valkeys_pod_is_rolled_for_another_file_which_it_reads_once(platform: Rendering, tmp_path: Path) -> None:
    other = render(copy_of(HOLDFAST, tmp_path, {"templates/_config.tpl": ("appendonly no", "appendonly yes")}))
    assert rolled(platform, other) == {"valkey"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(eq $depth (len $parts))", "(eq $depth 99)"),  # nothing is left out
        ('(eq (get $group $name | toJson) "{}")', "false"),  # empty groups count
        ("toJson | sha256sum", "keys | sortAlpha | toJson | sha256sum"),  # values do not count
    ],
)  # fmt: skip
def test_a_name_that_goes_by_something_else_is_found(tmp_path: Path, old: str, new: str) -> None:
    broken = copy_of(HOLDFAST, tmp_path, {"templates/_config.tpl": (old, new)})
    before = render(broken)
    is_hot_right = rolled(before, render(broken, HOT)) == set()
    cold = nested("services.orders.config.database.user", value="other")
    assert not (is_hot_right and rolled(before, render(broken, cold)) == {"orders"})


def test_development_and_production_have_files_of_their_own() -> None:
    names = [set(files(render(HOLDFAST, values_of(HOLDFAST, f"values-{it}.yaml")))) for it in ("dev", "prod")]
    assert not names[0] & names[1]
