"""Workers paused for longer than their group waits: what they do when they wake up changes nothing. And one that hangs:
its health check says so.
"""

import pytest
from support.cluster import until
from support.disturbed import (
    WITHIN_S,
    assert_state_is_exact,
    load_for,
    under_load,
    until_folding,
)
from support.ledger import Ledger
from support.live import MakeLive, prepared

from persona_stream.cli.probe import any_free_port

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("write", ["users-changelog", "items-changelog", "item-events"])
async def test_a_worker_that_wakes_up_after_another_took_over_is_refused_and_state_is_exact(
    make_live: MakeLive, write: str, ledger: Ledger
) -> None:
    namespace = await prepared(make_live)
    topics = namespace.topics
    topic = topics.item_events if write == "item-events" else topics.changelog(write.removesuffix("-changelog"))
    async with under_load(namespace, load_for(10, seed=4)):
        paused = namespace.start_doomed_worker("SIGSTOP", "before", topic)

        async def is_paused() -> bool:
            return paused.is_paused()

        await until(is_paused, within_s=WITHIN_S, what="the worker paused", check=paused.check_alive)
        # Nobody tells the group: it finds out by the session timeout.
        successor = namespace.start_worker()
        await until_folding(namespace, successor)
        await namespace.until_goes_on()
        paused.resume()
        assert paused.wait(within_s=WITHIN_S) == 1, paused.log_tail()
        assert "was claimed by another worker" in paused.log.read_text()
        namespace.workers.remove(paused)
        await namespace.until_goes_on()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    ledger.add("a worker paused (SIGSTOP) in a slice for longer than its group waits, then resumed", 1)


async def test_a_worker_that_hangs_in_a_write_is_not_live_and_says_where(make_live: MakeLive, ledger: Ledger) -> None:
    namespace = await prepared(make_live, worker_port=any_free_port(), stall_timeout_ms=2000)
    async with under_load(namespace, load_for(10, seed=5)):
        worker = namespace.start_doomed_worker("HANG", "before", namespace.topics.changelog("users"))

        async def is_not_live() -> bool:
            return (await namespace.livez())[0] == 503

        await until(is_not_live, within_s=WITHIN_S, what="the worker not live", check=worker.check_alive)
        _, said = await namespace.livez()
        assert said.startswith(f"{namespace.topics.events}/")
        assert "no slice was applied for" in said
        # As its supervisor would.
        await namespace.kill(worker)
        namespace.start_worker()
        await namespace.until_goes_on()
    await namespace.until_applied()
    assert (await namespace.livez())[0] == 200
    await assert_state_is_exact(namespace)
    ledger.add("a worker hung in a write: not live, killed and started again", 1)
