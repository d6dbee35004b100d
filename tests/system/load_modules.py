"""Modules of loadtest, which is no package: those that do not import Locust, which would patch this process."""

from importlib import import_module
from types import ModuleType

import pytest
from holdfast_local.settings import PROJECT

LOADTEST = PROJECT / "loadtest"


def imported(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(LOADTEST))
        return import_module(name)
