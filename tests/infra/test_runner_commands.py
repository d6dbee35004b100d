"""What the runner passes on to a service's own command."""

import os
import subprocess
import sys
from pathlib import Path

RUNNER = Path(sys.executable).with_name("holdfast-local")


def run(*words: str, state: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LOCAL_STATE": str(state)}
    return subprocess.run([RUNNER, "run", *words], env=environment, text=True, capture_output=True, check=False)


def test_help_after_a_service_is_the_service_s(tmp_path: Path) -> None:
    for words in (["orders", "--help"], ["orders", "jobs", "--help"]):
        ended = run(*words, state=tmp_path / "state")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert f"Usage: {' '.join(words[:-1])}" in ended.stdout
        assert "holdfast-local" not in ended.stdout


def test_what_is_no_service_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    ended = run("--help", state=tmp_path / "state")
    assert ended.returncode == 1
    assert "there is no service --help; there are webhook-ingest, payments, orders, notifications" in ended.stderr
