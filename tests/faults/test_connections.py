"""Connections to Kafka cut, stalled, narrowed and half-open under load: nothing is lost, nothing is done twice."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import msgspec
import pytest
from support.cluster import until
from support.disturbed import WITHIN_S, assert_state_is_exact, load_for, under_load
from support.ledger import Ledger
from support.live import Live, MakeLive, live, prepared
from support.processes import start_module
from support.questions import assert_replicas_equal_the_tables, questions, until_ready
from support.tally import create_topics, until_counted, write_versions
from support.tcp_proxy import HOST, TcpProxy

from persona_stream.broker import EmbeddedBroker, server
from persona_stream.cli.probe import any_free_port
from persona_stream.vocabulary.config import Settings

pytestmark = pytest.mark.faults

STALLED_S = 10.0
"""Longer than the group's session timeout, 8 s."""
LONG_STALLED_S = 95.0
"""Longer than any request's timeout: 40 s for writes, 90 s for Faust's fetches."""
NARROW_BYTES_S = 20_000
NARROW_S = 4.0
REFUSED_S = 2.0
SHORT_CYCLES = 10
"""With more, what takes minutes is tried too."""
CUT_EVERY_S = 0.3
CUTS = 10
WRITE_BYTES = 30_000
"""About what two slices give rise to: a cut after a part of it falls into a write."""

Act = Callable[[TcpProxy, Live, random.Random], Awaitable[None]]
_embedded_properties = server.server_properties


class Proxied:
    """A broker with a second listener that sends its clients to the proxy: what asks there goes through it for all."""

    def __init__(self) -> None:
        self.own, self.advertised = any_free_port(), any_free_port()
        self.address = f"{HOST}:{self.advertised}"

    def properties(self, port: int, controller_port: int) -> str:
        """The embedded broker's own, and the listener; of a name that stands twice Java takes the later."""
        before = _embedded_properties(port, controller_port)
        said = dict(line.split("=", 1) for line in before.splitlines())
        return (
            f"{before}listeners={said['listeners']},PROXIED://{HOST}:{self.own}\n"
            f"advertised.listeners={said['advertised.listeners']},PROXIED://{self.address}\n"
            f"listener.security.protocol.map={said['listener.security.protocol.map']},PROXIED:PLAINTEXT\n"
        )


@pytest.fixture(scope="module")
def proxied() -> Proxied:
    """Where the broker behind the proxy listens, and where it tells its clients to go."""
    return Proxied()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, jar_cache: Path, proxied: Proxied) -> Iterator[EmbeddedBroker]:
    """A broker of this module's own, with that listener."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "server_properties", proxied.properties)
        with EmbeddedBroker(tmp_path_factory.mktemp("proxied"), port=any_free_port(), cache_dir=jar_cache) as made:
            yield made


@pytest.fixture
def make_live(broker: EmbeddedBroker, proxied: Proxied, tmp_path: Path) -> Iterator[MakeLive]:
    """Namespaces whose processes go through the proxy; the test itself goes round it."""
    with live(broker.bootstrap, tmp_path, through=proxied.address) as make:
        yield make


async def _cut(proxy: TcpProxy, namespace: Live, random_: random.Random) -> None:
    assert proxy.cut()


async def _cut_in_a_write(proxy: TcpProxy, namespace: Live, random_: random.Random) -> None:
    proxy.cut_after_bytes = random_.randrange(1, WRITE_BYTES)

    async def is_cut() -> bool:
        return proxy.cut_after_bytes is None

    await until(is_cut, within_s=WITHIN_S, what=f"the connections cut after {proxy.cut_after_bytes} bytes")


async def _cut_again_and_again(proxy: TcpProxy, namespace: Live, random_: random.Random) -> None:
    for _ in range(CUTS):
        proxy.cut()
        await asyncio.sleep(CUT_EVERY_S)


async def _refuse(proxy: TcpProxy, namespace: Live, random_: random.Random) -> None:
    await proxy.refuse()
    await asyncio.sleep(REFUSED_S)
    await proxy.accept()


async def _stall(proxy: TcpProxy, namespace: Live, random_: random.Random, for_s: float = STALLED_S) -> None:
    proxy.stall()
    await asyncio.sleep(for_s)
    proxy.flow()


async def _leave_half_open(proxy: TcpProxy, namespace: Live, random_: random.Random) -> None:
    worker = namespace.workers[-1]
    assert proxy.strand()

    async def is_not_live() -> bool:
        return (await namespace.livez())[0] == 503

    # Left alone it goes on after the 90 s in which its fetch times out; who asks for its health starts it anew.
    await until(is_not_live, within_s=WITHIN_S, what="the worker not live", check=worker.check_alive)
    await namespace.kill(worker)
    namespace.start_worker()


async def _narrow(proxy: TcpProxy, namespace: Live, random_: random.Random) -> None:
    proxy.rate_bytes_s = NARROW_BYTES_S
    await asyncio.sleep(NARROW_S)
    proxy.rate_bytes_s = None


ACTS: dict[str, Act] = {
    "left half-open until the worker was not live": _leave_half_open,
    "cut": _cut,
    "cut in the middle of a write": _cut_in_a_write,
    "cut ten times within 3 s": _cut_again_and_again,
    "refused for 2 s": _refuse,
    "narrowed to 20 kB/s": _narrow,
    "stalled for longer than the session timeout": _stall,
}
LONG_ACTS = ACTS | {"stalled for longer than any request's timeout": partial(_stall, for_s=LONG_STALLED_S)}


async def test_connections_that_are_cut_stalled_and_narrowed_change_nothing(
    make_live: MakeLive, proxied: Proxied, fault_cycles: int, ledger: Ledger
) -> None:
    random_ = random.Random(13)
    namespace = await prepared(make_live, worker_port=any_free_port(), stall_timeout_ms=4000)
    tried = ACTS if fault_cycles <= SHORT_CYCLES else LONG_ACTS
    acts = list(islice(cycle(tried), max(len(tried), fault_cycles // 4)))
    async with TcpProxy(proxied.own, port=proxied.advertised) as proxy:
        async with under_load(namespace, load_for(4 * len(acts), seed=13)):
            port = await _started(namespace)
            async with questions(port) as asked:
                for act in acts:
                    await tried[act](proxy, namespace, random_)
                    await namespace.until_goes_on()
            assert not asked.failed
        await namespace.until_applied()
        await assert_state_is_exact(namespace)
        await assert_replicas_equal_the_tables(namespace, [port])
    for act, times in Counter(acts).items():
        ledger.add(f"connections of a worker and a server to Kafka {act}", times)


async def test_a_recovery_that_does_not_get_on_ends_with_an_error_and_the_next_gets_through(
    broker: EmbeddedBroker, proxied: Proxied, tmp_path: Path, ledger: Ledger
) -> None:
    direct = Settings(kafka=broker.bootstrap, namespace="stuck", partitions=1, home=tmp_path, stall_timeout_ms=3000)
    through = msgspec.structs.replace(direct, kafka=proxied.address)
    await create_topics(direct)
    await write_versions(direct, keys=100, versions=20, value_bytes=16 * 1024)
    async with TcpProxy(proxied.own, port=proxied.advertised) as proxy:
        # A fetch takes about a second, and it says how far it is after five.
        proxy.rate_bytes_s = 1 << 20
        worker = start_module("support.tally", through, tmp_path / "stuck.log", "fold")
        try:

            async def says(what: str) -> bool:
                return what in worker.log.read_text()

            await until(partial(says, "offsets left in"), within_s=WITHIN_S, what="a recovery under way")
            proxy.stall()
            await until(partial(says, "can't be read past offset"), within_s=WITHIN_S, what="the error told")
            # It would end by itself, after the 20 s in which it tries to drain.
            proxy.flow()
            proxy.rate_bytes_s = None
            assert await asyncio.to_thread(worker.wait, within_s=WITHIN_S) == 1
        finally:
            worker.kill()
        worker = start_module("support.tally", through, tmp_path / "next.log", "fold")
        try:
            await until_counted(direct, worker)
        finally:
            worker.kill()
    ledger.add("a recovery that does not get on: ended with an error, started again", 1)


async def _started(namespace: Live) -> int:
    """Start a worker and a server, and wait until both do their work; the server's port."""
    port = any_free_port()
    namespace.start_worker()
    namespace.start_server(port)
    await namespace.until_goes_on()
    await until_ready(namespace, port)
    return port
