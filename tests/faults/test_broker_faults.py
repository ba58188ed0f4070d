"""The broker restarted, killed and paused under load: workers go on, or are started again, and state is exact."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.disturbed import (
    assert_state_is_exact,
    load_for,
    under_load,
    until_folding,
)
from support.ledger import Ledger
from support.live import MakeLive, live, prepared

from persona_stream.broker import EmbeddedBroker
from persona_stream.cli.probe import any_free_port

pytestmark = pytest.mark.faults

PAUSED_S = 12.0
"""Longer than the group's session timeout, 8 s."""


@pytest.fixture
def broker(tmp_path: Path, jar_cache: Path) -> Iterator[EmbeddedBroker]:
    """A broker of the test's own: other tests must not meet its faults."""
    with EmbeddedBroker(tmp_path / "broker", port=any_free_port(), cache_dir=jar_cache) as made:
        yield made


@pytest.fixture
def make_live(broker: EmbeddedBroker, tmp_path: Path) -> Iterator[MakeLive]:
    """Namespaces on that broker."""
    with live(broker.bootstrap, tmp_path) as make:
        yield make


async def test_a_broker_that_is_stopped_and_killed_and_comes_back(
    make_live: MakeLive, broker: EmbeddedBroker, ledger: Ledger
) -> None:
    namespace = await prepared(make_live)
    async with under_load(namespace, load_for(10, seed=6)):
        worker = namespace.start_worker()
        await until_folding(namespace, worker)
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(broker.start)
        await namespace.until_goes_on()
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(broker.start)
        await namespace.until_goes_on()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    ledger.add("the broker stopped and started again", 1)
    ledger.add("the broker killed (SIGKILL) and started again", 1)


async def test_a_broker_paused_for_longer_than_the_session_timeout(
    make_live: MakeLive, broker: EmbeddedBroker, ledger: Ledger
) -> None:
    namespace = await prepared(make_live, worker_port=any_free_port(), stall_timeout_ms=5000)
    async with under_load(namespace, load_for(10, seed=7)):
        worker = namespace.start_worker()
        await until_folding(namespace, worker)
        assert (await namespace.livez())[0] == 200
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(PAUSED_S)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await namespace.until_goes_on()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    ledger.add("the broker paused (SIGSTOP) for longer than the session timeout", 1)
