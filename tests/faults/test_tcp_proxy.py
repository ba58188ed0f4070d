"""The proxy that the faults go through does what it says: a fault that does not happen proves nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from support.tcp_proxy import HOST, TcpProxy

SHORT_S = 0.2


class Echo:
    """A server that answers with what it gets."""

    def __init__(self) -> None:
        self.received = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.received += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[TcpProxy]:
    server = await asyncio.start_server(echo.serve, HOST, 0)
    async with server, TcpProxy(server.sockets[0].getsockname()[1]) as made:
        yield made


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, data: bytes, within_s: float = 5.0) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(within_s):
            return await self.reader.readexactly(len(data))


async def connect(proxy: TcpProxy) -> Client:
    return Client(*await asyncio.open_connection(HOST, proxy.port))


async def test_everything_passes_both_ways(proxy: TcpProxy) -> None:
    client = await connect(proxy)
    sent = bytes(range(256)) * 10_000
    assert await client.ask(sent) == sent
    client.writer.write_eof()
    assert await client.reader.read() == b""


async def test_latency_is_added_each_way_and_does_not_narrow_the_way(proxy: TcpProxy) -> None:
    client = await connect(proxy)
    proxy.latency_s = 0.1
    started_s = time.monotonic()
    assert await client.ask(b"x" * 1_000_000) == b"x" * 1_000_000
    assert 0.2 <= time.monotonic() - started_s < 1.5


async def test_a_rate_limits_bytes_a_second(proxy: TcpProxy) -> None:
    client = await connect(proxy)
    proxy.rate_bytes_s = 50_000
    started_s = time.monotonic()
    await client.ask(b"x" * 20_000)
    assert 0.35 <= time.monotonic() - started_s < 3


async def test_cut_connections_are_reset_and_new_ones_pass(proxy: TcpProxy) -> None:
    clients = [await connect(proxy) for _ in range(2)]
    for client in clients:
        await client.ask(b"hello")
    assert proxy.cut() == 2
    for client in clients:
        with pytest.raises(ConnectionResetError):
            await client.reader.read()
    assert await (await connect(proxy)).ask(b"again") == b"again"


async def test_refused_connections_are_taken_again_on_the_same_port(proxy: TcpProxy) -> None:
    client, port = await connect(proxy), proxy.port
    await client.ask(b"hello")
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    await proxy.accept()
    assert proxy.port == port
    assert await (await connect(proxy)).ask(b"again") == b"again"


async def test_a_stalled_connection_is_taken_and_silent_until_it_flows(proxy: TcpProxy) -> None:
    proxy.stall()
    client = await connect(proxy)
    with pytest.raises(TimeoutError):
        await client.ask(b"hello", SHORT_S)
    proxy.flow()
    async with asyncio.timeout(5):
        assert await client.reader.readexactly(5) == b"hello"


async def test_a_cut_after_so_many_bytes_comes_in_the_middle_of_what_is_sent(proxy: TcpProxy, echo: Echo) -> None:
    client = await connect(proxy)
    await client.ask(b"hello")
    proxy.cut_after_bytes = 1000
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await client.ask(b"x" * 5000)
    assert echo.received == 5 + 1000
    assert proxy.cut_after_bytes is None
    assert await (await connect(proxy)).ask(b"again") == b"again"
