"""What a new user reads when the first make cannot work: one true sentence, at once, and an exit code that is not 0."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_local.placement import passable_folder
from holdfast_local.ports import free_port
from holdfast_local.processes import unprivileged_account

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or str(ROOT / ".holdfast" / "tools" / "bin" / "uv")
NEEDED = ("sh", "dirname", "mkdir", "id", "cut", "rm", "df", "sed")
"""Of the system's programs. Whatever else is on this machine is not seen by the script under test."""

UNREACHABLE = "The package index does not answer: the first make needs the network, or a proxy in HTTPS_PROXY."
FULL = "is full: what runs takes 150 MB, the tools 600 MB more."

REAL_PYTHON = f'exec {sys.executable} "$@"'
OLD_PYTHON = """case "$*" in
    -c*) echo 3.11.7 ;;
    "-m pip --version") ;;
    "-m pip install"*) echo "ERROR: No matching distribution found for uv<0.14,>=0.13" >&2; exit 1 ;;
    *) exit 1 ;;
esac"""


class Clone:
    """A tree that has just been cloned, on a machine that has only the programs that it is given."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "clone"
        self._programs = folder / "bin"
        self._programs.mkdir()
        for part in ("services", "infra", "loadtest"):
            shutil.copytree(ROOT / part, self.tree / part, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
        for file in ("pyproject.toml", "uv.lock", ".python-version"):
            shutil.copy(ROOT / file, self.tree)
        for name in NEEDED:
            found = shutil.which(name)
            assert found, name
            (self._programs / name).symlink_to(found)

    def has(self, name: str, script: str) -> None:
        path = self._programs / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!{shutil.which('sh')}\n{script}\n")
        path.chmod(0o755)

    def set_up(self, *, uid: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        proxy = f"http://127.0.0.1:{free_port()}"
        closed = {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "UV_PYTHON_PREFERENCE": "only-system"}
        return subprocess.run(
            ["sh", self.tree / "infra" / "local" / "set-up.sh"],
            env={"PATH": str(self._programs), **closed, **environment},
            text=True,
            capture_output=True,
            check=False,
            user=uid,
        )


@pytest.fixture
def clone() -> Iterator[Clone]:
    with passable_folder(prefix="holdfast-clone-") as folder:
        yield Clone(folder)


def assert_said(ended: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert ended.returncode == 1, ended
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    (line,) = lines
    assert line.endswith(sentence)


def test_without_a_network_uv_says_that_the_index_does_not_answer(clone: Clone) -> None:
    clone.has("uv", f'exec {UV} "$@"')
    clone.has("python3", REAL_PYTHON)
    assert_said(clone.set_up(UV_PYTHON=sys.executable), UNREACHABLE)


def test_without_a_network_and_without_uv_pip_says_the_same(clone: Clone) -> None:
    clone.has("python3", REAL_PYTHON)
    assert_said(clone.set_up(), UNREACHABLE)


def test_a_folder_that_cannot_be_written_to_is_named(clone: Clone) -> None:
    account = unprivileged_account()
    clone.tree.chmod(0o555)
    ended = clone.set_up(uid=account.uid if account else None)
    clone.tree.chmod(0o755)
    assert_said(ended, ": packages go into .venv, databases and logs into .holdfast.")
    assert ended.stderr.startswith(f"{clone.tree} cannot be written to by ")


def test_a_python_that_is_too_old_is_named_with_the_one_that_is_needed(clone: Clone) -> None:
    clone.has("uv", f'exec {UV} "$@"')
    clone.has("python3", OLD_PYTHON)
    needed = "Python 3.13 or newer is needed (python3 is 3.11.7)"
    assert_said(clone.set_up(UV_PYTHON_DOWNLOADS="never"), f"{needed}; uv found none and could not download one.")


def test_a_python_that_is_too_old_even_for_uv_is_named_too(clone: Clone) -> None:
    clone.has("python3", OLD_PYTHON)
    assert_said(clone.set_up(), "Python 3.13 or newer is needed (python3 is 3.11.7).")


def test_a_machine_without_python_is_told_of_uv(clone: Clone) -> None:
    assert_said(clone.set_up(), "Install uv (https://docs.astral.sh/uv/) and run make again.")


@pytest.mark.parametrize("program", ["uv", "python3"])
def test_a_full_disk_is_named_whoever_hits_it(clone: Clone, program: str) -> None:
    full = "echo 'failed to write to file: No space left on device (os error 28)' >&2; exit 2"
    checks = {"uv": "--version) echo uv 0.13.9", "python3": "'-m pip --version') echo pip 26"}
    clone.has(program, f'case "$*" in {checks[program]} ;; *) {full} ;; esac')
    assert_said(clone.set_up(), FULL)


def test_a_disk_that_is_too_small_is_named_before_anything_is_fetched(clone: Clone) -> None:
    clone.has("df", "echo Filesystem 1024-blocks Used Available Capacity Mounted on; echo /dev/x 9000 1 8999 1% /")
    assert_said(clone.set_up(), FULL)


def test_what_is_not_known_is_said_in_the_program_s_own_words(clone: Clone) -> None:
    clone.has("uv", 'case "$*" in --version) echo uv 0.13.9 ;; *) echo "the moon is wrong" >&2; exit 2 ;; esac')
    assert_said(clone.set_up(), "The packages could not be installed. the moon is wrong")


@pytest.mark.parametrize("command", ["up", "demo", "chaos", "clean"])
def test_a_state_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, command: str) -> None:
    """A file stands where its parent should be, which even root cannot write into."""
    (tmp_path / "file").touch()
    environment = os.environ | {"LOCAL_STATE": str(tmp_path / "file" / "state")}
    runner = Path(sys.executable).with_name("holdfast-local")
    ended = subprocess.run([runner, command], env=environment, text=True, capture_output=True, check=False)
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 1
    assert "cannot be used by" in ended.stderr
