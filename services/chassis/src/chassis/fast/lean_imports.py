"""Replaces the plain import of three libraries in a process that serves. They would load or build parts that this
process never uses, which takes an eighth of the time of its start.

Call `import_libraries` before another module imports these libraries.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import ModuleType


def import_libraries(role: str) -> None:
    """Import Redis's client, Pydantic, and, for the role `api`, FastAPI."""
    # Pydantic looks for plugins in the metadata of all installed distributions. This project has no plugin.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # The client imports OpenTelemetry's metrics if they are installed. Its metrics are off here.
    with _refused("opentelemetry.sdk.metrics"):
        import_module("redis.asyncio")
    if role == "api":
        # FastAPI refuses models of Pydantic's first version, for which it imports that version.
        sys.meta_path.insert(0, _Refused("pydantic.v1"))
        with _built_on_first_use():
            import_module("fastapi")


class _Refused(MetaPathFinder):
    """Makes the import of one module fail, as if the module were not installed."""

    def __init__(self, refused: str) -> None:
        self._refused = refused

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        del path, target
        if fullname == self._refused:
            raise ModuleNotFoundError(f"{fullname} is not used by a process that serves", name=fullname)


@contextmanager
def _refused(module: str) -> Iterator[None]:
    finder = _Refused(module)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def _built_on_first_use() -> Iterator[None]:
    """Pydantic builds the validators of models that the block declares on first use. FastAPI has 40 models of an
    OpenAPI document, which a process uses only when a client asks for the document.
    """
    config = import_module("pydantic").BaseModel.model_config
    config["defer_build"] = True
    try:
        yield
    finally:
        del config["defer_build"]
