"""Writes each answer to a connection with one call, and disconnects a client that does not read its answers."""

import asyncio
import socket
import struct
from typing import Any

from chassis.logging import get_logger

log = get_logger(__name__)

MAX_UNSENT_BYTES = 65_536
"""The largest number of bytes of a connection's answers that may wait until the client reads them. Above this number,
the connection's next request is not started, and a streamed answer pauses. On Linux and macOS the kernel's buffer gets
the same limit. Without a limit, the buffer may take 4 MiB of the pod's memory."""
WRITE_SECONDS = 10.0
"""The time within which a client has to read some of the waiting bytes. The kernel reports progress in steps of 32 KiB,
so the slowest client that is served reads 3 KiB/s."""

_UNSENT_IN_KERNEL: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # only Linux and macOS have this option
_AT_ONCE = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which the kernel discards its buffer when the connection is closed. By default the kernel
would try to send the buffer for minutes."""


class Gathering:
    """A transport that gathers writes and sends them together, once per iteration of the event loop.

    uvicorn writes the head and the body of an answer one after the other, each with a system call. Each such call also
    wakes the reader, and takes as much CPU time as finding the route of a request. The connection is aborted if the
    client reads nothing for `WRITE_SECONDS` while more than `MAX_UNSENT_BYTES` wait, or while the connection is being
    closed.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._written = 0
        self._timer: asyncio.TimerHandle | None = None
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
        """Send the gathered bytes. If the client does not read the bytes, the transport calls the protocol's
        `pause_writing`.
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
        """From now on, abort the connection if the client reads none of the waiting bytes for `WRITE_SECONDS`."""
        if self._timer is None:
            self._timer = self._loop.call_later(WRITE_SECONDS, self._check_progress, self._taken())

    def stop(self) -> None:
        """Cancel the timer, because the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()

    def _set_option(self, level: int, option: int, value: int | bytes) -> None:
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(level, option, value)

    def _taken(self) -> int:
        return self._written - self._transport.get_write_buffer_size()

    def _check_progress(self, taken_before: int) -> None:
        self._timer = None
        taken = self._taken()
        if taken == taken_before and taken < self._written:
            log.info("answer_not_taken", unsent_bytes=self._written - taken)
            self._set_option(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._transport.abort()
        elif taken < self._written:
            self.expect_reading()
