"""Replaces the plain import of three libraries (redis-py, Pydantic, FastAPI) in an API or worker process. A plain
import also loads and builds parts that these processes never use, which takes an eighth of the time of their start.

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
    # Redis's client imports OpenTelemetry's metrics if they are installed. This project does not use the client's
    # metrics.
    with _refused("opentelemetry.sdk.metrics"):
        import_module("redis.asyncio")
    if role == "api":
        # FastAPI imports Pydantic's first version only to refuse models of that version.
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
    """Pydantic builds the validator of each model that the block declares only when the model is used. FastAPI declares
    40 models of an OpenAPI document, which a process uses only when a client requests the document.
    """
    config = import_module("pydantic").BaseModel.model_config
    config["defer_build"] = True
    try:
        yield
    finally:
        del config["defer_build"]
