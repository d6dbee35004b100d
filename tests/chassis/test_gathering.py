"""An answer goes out in one write, and all of it before its connection ends."""

import asyncio
from typing import Any

import uvicorn
from chassis.process.http_protocol import HttpProtocol
from chassis.process.http_writing import Gathering
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState


class Transport:
    """Says what was asked of it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def set_write_buffer_limits(self, _high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return "closed" in self.done


async def test_what_is_written_in_one_turn_goes_out_at_once() -> None:
    transport: Any = Transport()
    gathering = Gathering(transport)
    gathering.write(b"head")
    gathering.write(b"body")
    assert transport.done == []
    await asyncio.sleep(0)
    gathering.write(b"next")
    await asyncio.sleep(0)
    assert transport.done == [b"headbody", b"next"]


async def test_what_is_written_before_the_close_goes_out_before_it_and_nothing_afterwards() -> None:
    transport: Any = Transport()
    gathering = Gathering(transport)
    gathering.write(b"last")
    gathering.close()
    gathering.write(b"too late")
    await asyncio.sleep(0)
    assert transport.done == [b"last", "closed"]


async def test_an_answer_is_one_write() -> None:
    transport: Any = Transport()
    config = uvicorn.Config(PlainTextResponse("seen"), http=HttpProtocol, lifespan="off", log_config=None)
    config.load()
    serving = ServerState()
    protocol = HttpProtocol(config=config, server_state=serving, app_state={})
    protocol.connection_made(transport)
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
    await asyncio.gather(*serving.tasks)
    await asyncio.sleep(0)
    (answer,) = transport.done
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nseen")
    protocol.connection_lost(None)
