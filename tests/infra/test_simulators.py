"""What the three simulators have in common as processes."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import has_ipv6_loopback
from simulator_process import Simulator, customer_endpoint, mailbox, payment_provider
from simulators.process import listen

MEMORY_LIMIT_KB = 45_000


@pytest.fixture(scope="module")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Simulator]]:
    """The payment provider, the mailbox and the customer's endpoint."""
    folder = tmp_path_factory.mktemp("simulators")
    simulators = [payment_provider(folder, "http://127.0.0.1:9/"), mailbox(folder), customer_endpoint(folder)]
    for simulator in simulators:
        simulator.start()
    yield simulators
    assert [simulator.end() for simulator in simulators] == [0, 0, 0]


def test_wrong_start_ends_with_one_line_and_no_traceback(simulators: list[Simulator], tmp_path: Path) -> None:
    provider, mailbox, endpoint = simulators
    (tmp_path / "api_key").write_text("k")
    (tmp_path / "webhook_secret").write_text("nonsense")
    good = [*provider.command, "--port", str(provider.ports["port"])]
    for command, message in (
        (good, f"cannot listen on 127.0.0.1:{provider.ports['port']}: Address already in use"),
        ([*good, "--secrets-dir", "/nowhere"], "cannot read the secret /nowhere/api_key"),
        ([*good, "--secrets-dir", str(tmp_path)], "the secret webhook_secret must be whsec_"),
        ([*good, "--webhook-url", "ftp://x"], "--webhook-url ftp://x is no http or https URL"),
        ([*good, "--port", "0", "--database", "/proc/x/y"], "cannot use the database /proc/x/y"),
        ([*mailbox.command, "--http-port", str(provider.ports["port"])], "cannot listen on"),
        (
            [*endpoint.command, "--secrets-dir", str(tmp_path)],
            f"cannot read the secrets in {tmp_path}: a secret must be",
        ),
        ([*endpoint.command, "--secrets-dir", "/proc/x"], "cannot read the secrets in /proc/x: No such file"),
    ):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        assert ended.returncode == 1
        assert ended.stderr.startswith(message)
        assert ended.stderr.count("\n") == 1
    usage = subprocess.run([*good, "--webhook-schedule", "1,-2"], capture_output=True, text=True, check=False)
    assert (usage.returncode, "Traceback" in usage.stderr) == (2, False)


def test_a_star_is_every_address_of_both_kinds() -> None:
    with listen("*", 0) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", *(["::1"] if has_ipv6_loopback() else [])):
            socket.create_connection((host, port), timeout=5).close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_simulators_are_small(simulators: list[Simulator]) -> None:
    for simulator in simulators:
        rollup = Path(f"/proc/{simulator.running.pid}/smaps_rollup").read_text()
        assert int(rollup.partition("Pss:")[2].split()[0]) < MEMORY_LIMIT_KB


def test_simulators_know_nothing_of_the_platform() -> None:
    services = ("payment_provider", "mailbox", "customer_endpoint")
    imports = ", ".join(f"simulators.{name}.service" for name in services)
    code = f"import sys, {imports}\nprint(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"chassis", "orders", "payments", "notifications", "webhook_ingest", "oracle"} & set(modules)
