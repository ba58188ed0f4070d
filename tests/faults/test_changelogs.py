"""Changelogs as Kafka may leave them: compacted between a kill and the restart, empty, or with nothing left in them."""

from functools import partial

import pytest
from support.cluster import (
    COMPACT_AT_ONCE,
    alter_topic,
    delete_records,
    end_offsets,
    quick_cleaner,
    read_all,
    read_table,
    until,
)
from support.disturbed import WITHIN_S, assert_state_is_exact, load_for, publish_in_chunks, shopping_records, under_load
from support.ledger import Ledger
from support.live import Live, MakeLive, prepared

from persona_stream.kafka.writer import Partitioner, Record
from persona_stream.stream.partition import PROGRESS_KEY, SYSTEM_KEYS

pytestmark = pytest.mark.faults

FOLDED = ("users", "items", "learner")
GROWN = 30
"""Offsets in each partition: some slices' changes of the learner, the smallest."""


async def test_changelogs_compacted_between_a_kill_and_the_restart_give_the_same_state(
    make_live: MakeLive, fault_cycles: int, ledger: Ledger
) -> None:
    namespace = await prepared(make_live)
    kafka = namespace.settings.kafka
    for table in FOLDED:
        await alter_topic(kafka, namespace.topics.changelog(table), COMPACT_AT_ONCE)
    cycles = max(2, fault_cycles // 8)
    async with quick_cleaner(kafka), under_load(namespace, load_for(2 * cycles, seed=20)):
        for cycle in range(cycles):
            worker = namespace.start_worker()
            await namespace.until_goes_on()
            for table in FOLDED:
                grown = partial(_has_grown, namespace, table, (cycle + 1) * GROWN)
                await until(grown, within_s=WITHIN_S, what=f"a changelog of {table} that is worth compacting")
            await namespace.kill(worker)
            for table in FOLDED:
                compacted = partial(_is_compacted, namespace, table)
                await until(compacted, within_s=WITHIN_S, what=f"the changelog of {table} compacted")
        namespace.start_worker()
        await namespace.until_goes_on()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    ledger.add("all changelogs compacted between a kill (SIGKILL) and the restart", cycles)


async def _has_grown(namespace: Live, table: str, offsets: int) -> bool:
    return min((await end_offsets(namespace.settings.kafka, namespace.topics.changelog(table))).values()) > offsets


async def _is_compacted(namespace: Live, table: str) -> bool:
    """Whether most of what was written of each partition has made room for newer values."""
    topic = namespace.topics.changelog(table)
    records = await read_all(namespace.settings.kafka, topic)
    return 2 * len(records) < sum((await end_offsets(namespace.settings.kafka, topic)).values())


async def test_partitions_without_records_with_nothing_but_progress_and_with_nothing_left(
    make_live: MakeLive, ledger: Ledger
) -> None:
    namespace = await prepared(make_live, partitions=3)
    kafka, topic = namespace.settings.kafka, namespace.topics.changelog("users")
    partition_of = Partitioner(3)
    records = shopping_records(3_000, seed=21)
    full, broken = ([record for record in records if partition_of(record.key) == number] for number in (0, 1))
    # Partition 0 gets events, partition 1 only what is no event, partition 2 nothing.
    no_events = [Record(record.key, b"no json") for record in broken[:100]]
    worker = namespace.start_worker()
    await publish_in_chunks(namespace, full[:500] + no_events)
    await namespace.until_applied()
    held = await read_table(kafka, topic)
    assert PROGRESS_KEY in held[1]
    assert held[1].keys() <= SYSTEM_KEYS
    assert PROGRESS_KEY not in held.get(2, {})
    await namespace.kill(worker)
    # Nobody should, and Kafka refuses it as long as the topic is only compacted: all is gone, progress and all.
    await alter_topic(kafka, topic, {"cleanup.policy": "compact,delete", "retention.ms": "-1"})
    await delete_records(kafka, topic, await end_offsets(kafka, topic))
    assert await read_all(kafka, topic) == []
    namespace.start_worker()
    await publish_in_chunks(namespace, [*full[500:], *broken[100:], *(r for r in records if partition_of(r.key) == 2)])
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    ledger.add("a changelog partition without any record, or with progress alone, read back after a kill", 2)
    ledger.add("all records of a changelog deleted (DeleteRecords) between a kill and the restart", 1)
