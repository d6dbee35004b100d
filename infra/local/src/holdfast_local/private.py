"""What the runner keeps is its account's alone: folders have mode 0700 and files 0600, whatever the umask."""

import os
import stat
from pathlib import Path
from typing import IO, Literal

UMASK = 0o077
"""Of the programs that the runner starts."""

_OTHERS = 0o077
_PASSING = 0o011


def private_folder(path: Path, *, is_passable: bool = False) -> Path:
    """The folder, made where it is missing. Where it is our own and wider, the others' rights are taken away.

    Through a passable one other accounts may pass, as PostgreSQL's has to when we are root; its contents are private.
    A folder that is shared on purpose, such as /tmp, stays as it is.
    """
    path.mkdir(mode=0o711 if is_passable else 0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode) & ~_OTHERS | (_PASSING if is_passable else 0)
        if mode != stat.S_IMODE(status.st_mode):
            path.chmod(mode)
    return path


def private_file(path: Path, mode: Literal["wb", "ab"]) -> IO[bytes]:
    """Opens it for writing, `wb` or `ab`; a new one is ours alone."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))
