"""Redis slow, silent, gone, emptied and cut off in the middle of a pipeline, and the mirror killed, all under load:
workers and servers do not notice, and Redis equals the tables afterwards.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import msgspec
import pytest
from support.cluster import until
from support.disturbed import assert_state_is_exact, load_for, under_load
from support.ledger import Ledger
from support.live import MakeLive, prepared
from support.mirrored import until_mirrored
from support.processes import Process, StartMirror
from support.questions import questions, until_ready
from support.redis_server import RedisServer
from support.tcp_proxy import HOST, TcpProxy

from persona_stream.cli.probe import any_free_port
from persona_stream.mirror.link import TIMEOUT_S

pytestmark = pytest.mark.faults

WITHIN_S = 60
FAULT_S = 3.0
SLOW_LATENCY_S = 0.3
NARROW_BYTES_S = 100_000
PIPELINE_BYTES = 40_000
"""About what a fetch under this load gives rise to: a cut after a part of it falls into a pipeline."""


class Redis:
    """A Redis behind a proxy, and the mirror that goes through it."""

    def __init__(self, server: RedisServer, proxy: TcpProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.mirror: Process | None = None
        self.random = random.Random(11)

    async def slow(self) -> None:
        self.proxy.latency_s, self.proxy.rate_bytes_s = SLOW_LATENCY_S, NARROW_BYTES_S
        await asyncio.sleep(FAULT_S)
        self.proxy.latency_s, self.proxy.rate_bytes_s = 0.0, None

    async def silent(self) -> None:
        self.proxy.stall()
        await asyncio.sleep(TIMEOUT_S + FAULT_S)
        self.proxy.flow()

    async def gone(self) -> None:
        await self.proxy.refuse()
        await asyncio.sleep(FAULT_S)
        await self.proxy.accept()

    async def emptied(self) -> None:
        self.server.kill()
        await asyncio.sleep(FAULT_S)
        await asyncio.to_thread(self.server.start)

    async def cut_off(self) -> None:
        for _ in range(5):
            self.proxy.cut_after_bytes = self.random.randrange(1, PIPELINE_BYTES)

            async def is_cut() -> bool:
                return self.proxy.cut_after_bytes is None

            await until(is_cut, within_s=WITHIN_S, what="a pipeline cut")

    async def commands(self) -> int:
        """Commands of every client since it was started; the question is one."""
        async with self.server.client() as client:
            return int((await client.info("stats"))["total_commands_processed"])


FAULTS: dict[str, Callable[[Redis], Awaitable[None]]] = {
    "Redis slow and narrow": Redis.slow,
    "Redis silent for longer than its timeout": Redis.silent,
    "Redis gone and back": Redis.gone,
    "Redis killed and back empty": Redis.emptied,
    "connections to Redis cut in the middle of a pipeline": Redis.cut_off,
}
KILLED = "the mirror killed (SIGKILL)"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as made:
        yield made


@pytest.fixture
async def redis_behind_proxy(server: RedisServer) -> AsyncIterator[Redis]:
    async with TcpProxy(server.port) as proxy:
        yield Redis(server, proxy)


async def test_workers_and_servers_do_not_notice_what_redis_does_and_the_mirror_catches_up(
    make_live: MakeLive, redis_behind_proxy: Redis, run_mirror: StartMirror, fault_cycles: int, ledger: Ledger
) -> None:
    behind = redis_behind_proxy
    namespace = await prepared(make_live)
    through = msgspec.structs.replace(namespace.settings, redis_url=f"redis://{HOST}:{behind.proxy.port}/0")
    faults = list(islice(cycle([*FAULTS, KILLED]), max(len(FAULTS) + 1, fault_cycles)))
    port = any_free_port()
    async with under_load(namespace, load_for(2 * len(faults), seed=14)):
        namespace.start_worker()
        mirror = run_mirror(through)
        await namespace.until_goes_on()
        namespace.start_server(port)
        await until_ready(namespace, port)
        async with questions(port) as asked:
            for fault in faults:
                await until_writing(behind, mirror)
                if fault == KILLED:
                    mirror.kill()
                    mirror = run_mirror(through)
                else:
                    # Events are folded while it lasts, not after it.
                    await asyncio.gather(FAULTS[fault](behind), namespace.until_goes_on())
                mirror.check_alive()
                assert not asked.failed
        assert asked.answered > len(faults)
    assert namespace.restarts == 0
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    async with behind.server.client() as client:
        await until_mirrored(namespace, client)
    for fault, times in Counter(faults).items():
        ledger.add(fault, times)


async def until_writing(behind: Redis, mirror: Process) -> None:
    before = await behind.commands()

    async def grown() -> bool:
        return await behind.commands() > before + 100

    await until(grown, within_s=WITHIN_S, what="the mirror writes", check=mirror.check_alive)
