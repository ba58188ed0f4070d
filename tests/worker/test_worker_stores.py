"""All tables on disk, more keys than stay in memory, workers killed where it matters: state is exact."""

import asyncio
import random
import signal

import pytest
from support.cluster import write_keyed
from support.disturbed import WITHIN_S, assert_state_is_exact, load_for, shopping_records, under_load, until_folding
from support.live import Live, MakeLive, prepared

KEPT = 5
"""Of 60 users and 40 items in two partitions."""
KILLS = 4


@pytest.mark.faults
async def test_kills_between_acknowledgement_and_store_and_anywhere_leave_state_exact(make_live: MakeLive) -> None:
    random_ = random.Random(11)
    namespace = await prepared(make_live, store="rocksdb", store_values=KEPT)
    topics = namespace.topics
    deaths = [
        ("before", topics.changelog("users")),
        # Kafka has the slice, the store does not.
        ("after", topics.changelog("users")),
        ("after", topics.changelog("items")),
        ("after", topics.changelog("learner")),
    ]
    async with under_load(namespace, load_for(len(deaths) + KILLS, seed=21)):
        for moment, topic in deaths:
            worker = namespace.start_doomed_worker("SIGKILL", moment, topic)
            assert await asyncio.to_thread(worker.wait, within_s=WITHIN_S) == -signal.SIGKILL, worker.log_tail()
            await namespace.kill(worker)
        for _ in range(KILLS):
            worker = namespace.start_worker()
            await until_folding(namespace, worker)
            await asyncio.sleep(random_.random())
            await namespace.kill(worker)
        last = namespace.start_worker()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    _assert_stores_were_used(namespace)
    assert "made anew" not in last.log.read_text()


async def test_a_log_folded_on_disk_gives_the_tables_of_one_folded_in_memory_to_the_byte(make_live: MakeLive) -> None:
    on_disk = await prepared(make_live, store="rocksdb", store_values=KEPT)
    await write_keyed(on_disk.settings, on_disk.topics.events, shopping_records(3000, seed=22))
    worker = on_disk.start_worker()
    await on_disk.until_applied("users")
    assert worker.terminate() == 0
    on_disk.start_worker()
    await on_disk.until_applied()
    await assert_state_is_exact(on_disk)
    _assert_stores_were_used(on_disk)


def _assert_stores_were_used(namespace: Live) -> None:
    found = {path.name for path in (namespace.settings.home / "worker" / "stores" / "worker-0").iterdir()}
    assert {namespace.topics.changelog(table) for table in ("users", "items", "learner")} <= found
