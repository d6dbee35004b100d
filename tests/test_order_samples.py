"""The sampler of `make bench-order`: a process counts its CPU by kind of work, between two signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SAMPLING = Path(__file__).parents[1] / "loadtest" / "benchmarks" / "order" / "sampling"

# Turns a large document into JSON in pure Python until its standard input ends.
WORK = """
import json, sys, threading
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
print("ready", flush=True)
while not ended.is_set():
    json.dumps(list(range(2000)), indent=1)
"""
PATIENCE_SECONDS = 30.0


def test_a_process_counts_its_cpu_by_kind_of_work_between_two_signals(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SAMPLING), "SAMPLES_FOLDER": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", WORK], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR2)
        until_it_has_used_cpu(process.pid, seconds=0.3)
        process.send_signal(signal.SIGUSR2)
        samples = written(tmp_path / f"{process.pid}.json")
        process.communicate("")
    assert process.returncode == 0
    assert sum(samples.values()) >= 50
    assert samples["serialisation"] > 0.5 * sum(samples.values())


def until_it_has_used_cpu(pid: int, *, seconds: float) -> None:
    used = cpu_seconds(pid)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while cpu_seconds(pid) - used < seconds:
        if time.monotonic() > deadline:
            pytest.fail("the process used no CPU")
        time.sleep(0.02)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def written(file: Path) -> dict[str, int]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            pytest.fail("the process wrote no samples")
        time.sleep(0.02)
    samples: dict[str, int] = json.loads(file.read_text())
    return samples
