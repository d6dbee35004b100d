"""What the tests of load share: a platform that misbehaves as told, and a folder of keys."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from fake_platform import FakeOrders
from holdfast_local.ports import free_port


@pytest.fixture
async def orders() -> AsyncIterator[FakeOrders]:
    fake = FakeOrders()
    runner = web.AppRunner(fake.application(), shutdown_timeout=1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    fake.url = f"http://127.0.0.1:{port}"
    yield fake
    await runner.cleanup()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder of keys, with what a mounted Secret has beside them."""
    folder = tmp_path / "keys"
    (folder / "..data").mkdir(parents=True)
    for client in ("acme", "globex"):
        (folder / client).write_text(f"key-of-{client}\n")
    return folder
