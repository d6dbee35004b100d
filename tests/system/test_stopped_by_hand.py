"""Ctrl-C in a long run prints what was found so far, leaves no process behind, and no traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
RUNNER = Path(sys.executable).with_name("holdfast-local")
LAB = [sys.executable, "-m", "experiments"]


def stopped(command: list[str | Path], moment: str, *, state: Path, number: signal.Signals) -> tuple[int, str]:
    """Exit code and output of a run that gets the signal once it has printed `moment`; it has left no process."""
    environment = os.environ | {"LOCAL_STATE": str(state), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        cwd=ROOT / "loadtest",
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as run:
        seen = ""
        while moment not in seen:
            line = run.stdout.readline()
            assert line, seen
            seen += line
        children = psutil.Process(run.pid).children(recursive=True)
        os.killpg(run.pid, number)  # as a terminal does
        rest = run.stdout.read()
        code = run.wait()
    _, left = psutil.wait_procs(children, timeout=10)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
    return code, seen + rest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_chaos_prints_its_totals(tmp_path: Path, number: signal.Signals) -> None:
    command = [RUNNER, "chaos", "--rounds", "20"]
    code, output = stopped(command, "requests repeated", state=tmp_path / "state", number=number)
    assert code == 130
    assert "Traceback" not in output
    totals = output.splitlines()[-2]
    assert "orders" in totals
    assert "0 violations" in totals
    assert output.splitlines()[-1] == "Stopped; the last round was not finished."
    assert not (tmp_path / "state" / "chaos").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_lab_says_how_many_experiments_were_finished(tmp_path: Path, number: signal.Signals) -> None:
    code, output = stopped([*LAB, "rate_limiting"], "── rate_limiting", state=tmp_path, number=number)
    assert code == 130
    assert "Traceback" not in output
    assert output.splitlines()[-1] == "Stopped; 0 of 1 experiments were finished."
