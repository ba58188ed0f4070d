"""A TCP proxy on loopback that makes a network bad on purpose: slow, cut, refusing, silent, narrow.

    async with TcpProxy(redis_port) as proxy:
        proxy.latency_s = 0.05              # each way, for every byte
        proxy.rate_bytes_s = 100_000        # each way, each connection; None: as fast as it goes
        proxy.stall()                       # connections are taken and nothing passes, until `flow()`
        proxy.strand()                      # who is connected now hears nothing any more, not even of an end
        proxy.cut()                         # every connection is reset now
        proxy.cut_after_bytes = 10_000      # reset all once so many more bytes of clients were passed on
        await proxy.refuse()                # nobody listens, and all is cut, until `accept()`

Clients connect to `proxy.port`, which stays the same. Kafka tells its clients where to connect: a broker behind the
proxy must advertise the proxy's port (`TcpProxy(upstream, port=...)`), else they go round it.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
CHUNKS_ON_THE_WAY = 64
"""Of one direction of a connection; a sender that is faster waits, as for a full window."""
RATED_PIECE_S = 0.02
"""What a limited rate passes at a time."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class TcpProxy:
    """Passes what comes to `port` on to `upstream_port`, as its attributes say: they may be changed at any time."""

    def __init__(self, upstream_port: int, *, port: int = 0) -> None:
        self.port = port
        """Where it listens, once entered."""
        self.latency_s = 0.0
        self.rate_bytes_s: float | None = None
        self.cut_after_bytes: int | None = None
        """Counts down with what of clients is passed on; at 0 all is cut, once."""
        self.accepted = 0
        """Connections taken so far."""
        self._upstream_port = upstream_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def accept(self) -> None:
        """Listen, on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut everything and listen no more: a client gets `connection refused`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> int:
        """Reset every connection, whatever is on its way; how many there were."""
        cut = len(self._links)
        for writer in self._writers:
            abort(writer)
        return cut

    def stall(self) -> None:
        """Take connections and bytes, and pass nothing on."""
        self._flowing.clear()

    def flow(self) -> None:
        """End a stall."""
        self._flowing.set()

    def strand(self) -> int:
        """Leave every connection half-open: each side believes in it, and nothing passes. New ones are as before.

        How many there were.
        """
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()
        return len(self._links)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._links.add(task)
        self._writers.add(writer)
        with suppress(OSError):
            await self._link(reader, writer)
        abort(writer)
        self._writers.discard(writer)
        self._links.discard(task)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(HOST, self._upstream_port)
        self._writers.add(up_writer)
        both = [
            asyncio.create_task(self._pass(reader, up_writer, sent=True)),
            asyncio.create_task(self._pass(up_reader, writer)),
        ]
        try:
            # A direction that breaks ends the other; one that ends well does not.
            await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for direction in both:
                direction.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            abort(up_writer)
            self._writers.discard(up_writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, sent: bool = False) -> None:
        """One direction: what is read now is written after the latency, at most at the rate."""
        loop, flowing = asyncio.get_running_loop(), self._flowing
        on_the_way: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue(CHUNKS_ON_THE_WAY)

        async def read() -> None:
            data: bytes | OSError = b"."
            while data and isinstance(data, bytes):
                try:
                    data = await reader.read(CHUNK_BYTES)
                except OSError as error:
                    data = error
                await on_the_way.put((loop.time() + self.latency_s, data))

        reading = asyncio.create_task(read())
        try:
            while True:
                due_s, data = await on_the_way.get()
                await asyncio.sleep(due_s - loop.time())
                await flowing.wait()
                if isinstance(data, OSError):
                    raise data
                if not data:
                    writer.write_eof()
                    return
                await self._write(writer, data, sent=sent)
        finally:
            reading.cancel()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes, *, sent: bool) -> None:
        while data:
            size = len(data)
            if self.rate_bytes_s is not None:
                size = min(size, max(1, int(self.rate_bytes_s * RATED_PIECE_S)))
            if sent and self.cut_after_bytes is not None:
                size = min(size, self.cut_after_bytes)
                self.cut_after_bytes -= size
            writer.write(data[:size])
            await writer.drain()
            if self.rate_bytes_s is not None:
                await asyncio.sleep(size / self.rate_bytes_s)
            if sent and self.cut_after_bytes == 0:
                self.cut_after_bytes = None
                self.cut()
            data = data[size:]


def abort(writer: asyncio.StreamWriter) -> None:
    """Close at once, with a reset where the other side is still there."""
    raw = writer.get_extra_info("socket")
    with suppress(OSError, ValueError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
