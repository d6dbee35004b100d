"""The one exception this package raises on purpose; the command line prints its message and nothing else."""

import errno
import getpass
import os
import shutil
from pathlib import Path

_FULL_BYTES = 2**24
"""A segment of PostgreSQL's log: with less it does not start."""


class RunnerError(Exception):
    """Something the person at the keyboard can act on: the message says what, and what to do."""


def problem_of(error: OSError) -> RunnerError | None:
    """What is wrong with the place where files go; None where the error is of another kind."""
    where = error.filename or "the state folder"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return RunnerError(f"the disk is full: {where} cannot be written")
        case errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR:
            return RunnerError(f"{where} cannot be used by {getpass.getuser()}: {error.strerror}; LOCAL_STATE moves it")
        case _:
            return None


def full_disk(folder: Path, said: str) -> RunnerError | None:
    """The reason of a failure, when the program that writes there said so, or next to nothing fits there any more."""
    free = shutil.disk_usage(folder).free
    if os.strerror(errno.ENOSPC) not in said and free > _FULL_BYTES:
        return None
    return RunnerError(f"the disk is full: {folder} needs more than the {free / 1e6:.0f} MB that are left")
