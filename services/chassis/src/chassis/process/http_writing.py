"""The writing side of a connection: an answer goes out in one write, and a client that does not take it is let go."""

import asyncio
import socket
import struct
from typing import Any

from chassis.logging import get_logger

log = get_logger(__name__)

MAX_UNSENT_BYTES = 65_536
"""Of a connection's answers: from there on its next request is not begun, and a stream is not continued. The kernel
keeps as much again, where it can be limited: by itself it takes 4 MiB, which count as the pod's memory."""
WRITE_SECONDS = 10.0
"""For a client to take some of what is unsent, 32 KiB as the kernel reports it: at least 3 KiB/s."""

_UNSENT_IN_KERNEL: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # Linux and macOS have it
_AT_ONCE = struct.pack("ii", 1, 0)  # the kernel would go on to offer what it has for minutes


class Gathering:
    """A transport that writes once in a turn of the event loop: uvicorn writes an answer's head and body one by one.

    A system call, with the reader that it wakes, costs as much as a route's match. The connection is aborted when the
    client takes nothing for `WRITE_SECONDS` while more than `MAX_UNSENT_BYTES` wait for it or the connection is closed.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._written = 0
        self._look: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(MAX_UNSENT_BYTES)
        if _UNSENT_IN_KERNEL is not None:
            self._set_option(socket.IPPROTO_TCP, _UNSENT_IN_KERNEL, MAX_UNSENT_BYTES)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)

    def flush(self) -> None:
        """Hand over what was gathered. Afterwards it is known whether the client takes it: `pause_writing` was called
        if not.
        """
        if self._pieces and not self._transport.is_closing():
            gathered = b"".join(self._pieces)
            self._written += len(gathered)
            self._transport.write(gathered)
        self._pieces.clear()

    def close(self) -> None:
        if not self._transport.is_closing():
            self.flush()
            self._transport.close()
            self.expect_reading()

    def expect_reading(self) -> None:
        """Abort the connection unless the client takes some of what is unsent in each `WRITE_SECONDS` from now on."""
        if self._look is None:
            self._look = self._loop.call_later(WRITE_SECONDS, self._look_again, self._taken())

    def forget(self) -> None:
        """The connection is gone."""
        if self._look is not None:
            self._look.cancel()

    def _set_option(self, level: int, option: int, value: int | bytes) -> None:
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(level, option, value)

    def _taken(self) -> int:
        return self._written - self._transport.get_write_buffer_size()

    def _look_again(self, taken_before: int) -> None:
        self._look = None
        taken = self._taken()
        if taken == taken_before and taken < self._written:
            log.info("answer_not_taken", unsent_bytes=self._written - taken)
            self._set_option(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._transport.abort()
        elif taken < self._written:
            self.expect_reading()
