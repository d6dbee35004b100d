"""Modules of loadtest, which is no package: those that do not import Locust, which would patch this process.

They are not left under their names, which other folders of tests use, too.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from holdfast_local.settings import PROJECT

LOADTEST = PROJECT / "loadtest"
_NAMES = ("judging", "loopback", "report", "scenario", "scenarios")


def _import_all() -> Mapping[str, ModuleType]:
    others = {name: sys.modules.pop(name) for name in _under_our_names()}
    sys.path.insert(0, str(LOADTEST))
    try:
        return {name: import_module(name) for name in _NAMES}
    finally:
        sys.path.remove(str(LOADTEST))
        for name in _under_our_names():
            del sys.modules[name]
        sys.modules.update(others)


def _under_our_names() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in _NAMES]


MODULES = _import_all()
