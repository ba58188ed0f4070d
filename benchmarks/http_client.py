"""A keep-alive HTTP/1.1 client of the fewest instructions, for http_load.py.

One request at a time a connection, POST only, answers with a Content-Length or chunked. It reads what it
needs to know when answers are complete and what their status was, and no more, so that the generator costs
the measured machine as little as possible (aiohttp's client costs as much as a small server).
"""

import asyncio
import ipaddress
from collections.abc import Callable
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import msgspec

CONNECT_TIMEOUT_S = 10.0
BROKEN = 0
"""Status of a request whose connection ended before its answer was complete."""

Answered = Callable[[int, bool], None]


class Target(msgspec.Struct, frozen=True):
    """Where requests go: a loopback address, a port and a path with its query."""

    host: str
    port: int
    path: str

    def request(self, body: bytes) -> bytes:
        """The bytes of a POST with a JSON ``body``."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def parse_url(url: str) -> Target:
    """The target of an http URL. Raises ValueError unless its host is a loopback address (or localhost)."""
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
    if parts.scheme != "http" or not _is_loopback(host):
        raise ValueError(f"{url!r} is not http on a loopback address: start the server on 127.0.0.1 and load that")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(host, parts.port or 80, path)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Connection(asyncio.Protocol):
    """One connection; :meth:`send` may be called again when the answer to the last request is there."""

    def __init__(self) -> None:
        """Use :meth:`open`."""
        self._transport: asyncio.Transport | None = None
        self._answered: Answered | None = None
        self._buffer = b""

    @classmethod
    async def open(cls, target: Target) -> "Connection":
        """Connect. Raises OSError when that fails, TimeoutError (an OSError) when it takes 10 s."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(cls, target.host, target.port)
        return connection

    @property
    def is_open(self) -> bool:
        """Can it still be used?"""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        # uvloop's transports have the interface of asyncio.Transport without being subclasses of it
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        """See asyncio.Protocol. The request under way is broken."""
        self._transport = None
        self._finish(BROKEN, reusable=False)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._buffer += data
        status = _complete_status(self._buffer)
        if status is not None:
            reusable = b"connection: close" not in self._buffer[: self._buffer.find(b"\r\n\r\n")].lower()
            self._buffer = b""
            self._finish(status, reusable=reusable)

    def send(self, request: bytes, answered: Answered) -> None:
        """Send; ``answered(status, reusable)`` is called once, with :data:`BROKEN` if no answer comes."""
        self._answered = answered
        if self._transport is None:
            # not at once: the caller is still busy with whatever it sends
            asyncio.get_running_loop().call_soon(partial(self._finish, BROKEN, reusable=False))
        else:
            self._transport.write(request)

    async def ask(self, request: bytes) -> tuple[int, bool]:
        """Send and wait for ``(status, reusable)``."""
        answer: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()
        self.send(request, lambda status, reusable: answer.set_result((status, reusable)))
        return await answer

    def close(self) -> None:
        """Disconnect."""
        if self._transport is not None:
            self._transport.close()

    def _finish(self, status: int, *, reusable: bool) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(status, reusable)


def _complete_status(buffer: bytes) -> int | None:
    """The status of the answer in ``buffer``, None while it is incomplete."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[:end].lower()
    status = int(head[9:12])
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        line_end = head.find(b"\r\n", at + 2)
        length = int(head[at + 17 : line_end if line_end >= 0 else end])
        return status if len(buffer) >= end + 4 + length else None
    if b"\r\ntransfer-encoding: chunked" in head:
        return status if buffer.endswith(b"0\r\n\r\n") else None
    return status
