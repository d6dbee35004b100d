"""An answer goes out in one write, and all of it before its connection ends."""

import asyncio
from typing import Any

from chassis.http_protocol import Gathering


class Transport:
    """Says what was asked of it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

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
