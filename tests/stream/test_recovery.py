"""Recovery from changelogs as Kafka really leaves them: compacted, with holes, tombstones and empty partitions."""

from collections.abc import Callable

import msgspec
from aiokafka import AIOKafkaProducer
from support.cluster import (
    COMPACT_AT_ONCE,
    alter_topic,
    committed,
    end_offsets,
    members,
    quick_cleaner,
    read_all,
    read_table,
    until,
    write,
)
from support.processes import Process
from support.tally import COUNT, HANGING, changelog, source

from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import OWNER_KEY, PROGRESS_KEY, SYSTEM_KEYS, Progress, decode_progress
from persona_stream.vocabulary.config import Settings

WITHIN_S = 60
KEYS = 20
StartTally = Callable[..., Process]


def _progress(offset: int) -> Record:
    return Record(PROGRESS_KEY, msgspec.msgpack.encode(Progress(offset=offset, events=offset + 1)))


async def _write_in_transaction(settings: Settings, topic: str, record: Record) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka, transactional_id=settings.namespace)
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait(topic, record.value, key=record.key, partition=0)
    await producer.stop()

    async def ended() -> bool:
        return (await end_offsets(settings.kafka, topic))[0] == 2

    await until(ended, within_s=WITHIN_S, what="the end of the transaction in the log")


async def _until_counted(settings: Settings, worker: Process, key: str, count: int) -> None:
    async def reached() -> bool:
        table = await read_table(settings.kafka, changelog(settings))
        return table.get(0, {}).get(key.encode()) == COUNT.encode(count)

    await until(reached, within_s=WITHIN_S, what=f"{key} counted {count} times", check=worker.check_alive)


async def test_a_compacted_changelog_with_holes_and_tombstones_gives_values_and_progress(
    settings: Settings, start_tally: StartTally
) -> None:
    topic = changelog(settings)
    await alter_topic(settings.kafka, topic, COMPACT_AT_ONCE)
    # A transaction, whose end takes an offset and is no record; 50 versions of each key; two keys deleted.
    await _write_in_transaction(settings, topic, Record(b"tx", COUNT.encode(77)))
    for version in range(50):
        values = [Record(f"k{n}".encode(), COUNT.encode(version)) for n in range(KEYS)]
        await write(settings, topic, {0: [*values, _progress(version)]})
    await write(settings, topic, {0: [Record(b"k0", None), Record(b"k1", None), _progress(60)]})

    async def is_compacted() -> bool:
        # Each turn appends a record, which lets the segment before it be closed and compacted.
        await write(settings, topic, {0: [_progress(60)]})
        records = await read_all(settings.kafka, topic)
        return len(records) < 200 and all(record.value is not None for record in records)

    async with quick_cleaner(settings.kafka):
        await until(is_compacted, within_s=WITHIN_S, what="the changelog compacted, its tombstones gone")
    records = await read_all(settings.kafka, topic)
    assert records[-1].offset - records[0].offset + 1 > len(records)

    worker = start_tally()
    published = [Record(key, b"x") for key in (b"k0", b"tx", b"k3", b"new")]
    # The table has seen offsets up to 60: of these 65 records, the last four are news.
    await write(settings, source(settings), {0: [Record(b"old", b"x")] * 61 + published})
    await _until_counted(settings, worker, "new", 1)
    table = (await read_table(settings.kafka, topic))[0]
    assert decode_progress(table.pop(PROGRESS_KEY)).offset == 64
    assert table.pop(OWNER_KEY)
    expected = {f"k{n}": 49 for n in range(2, KEYS)} | {"k0": 1, "tx": 78, "k3": 50, "new": 1}
    assert {key.decode(): COUNT.decode(value) for key, value in table.items()} == expected


async def test_state_goes_on_where_it_was_with_a_partition_still_empty(
    settings: Settings, start_tally: StartTally
) -> None:
    # Partition 1 has neither records nor a changelog: its recovery must not be waited for.
    worker = start_tally()
    await write(settings, source(settings), {0: [Record(b"a", b"x"), Record(b"gone", b"x"), Record(b"a", b"x")]})
    await _until_counted(settings, worker, "a", 2)
    assert worker.terminate() == 0
    worker = start_tally()
    await write(settings, source(settings), {0: [Record(b"gone", b"forget"), Record(b"a", b"x")]})
    await _until_counted(settings, worker, "a", 3)
    assert b"gone" not in (await read_table(settings.kafka, changelog(settings)))[0]
    assert worker.terminate() == 0
    worker = start_tally()
    await write(settings, source(settings), {0: [Record(b"gone", b"x")], 1: [Record(b"b", b"x")]})
    await _until_counted(settings, worker, "gone", 1)

    async def all_committed() -> bool:
        return await committed(settings.kafka, f"{settings.namespace}-worker", source(settings)) == {0: 6, 1: 1}

    await until(all_committed, within_s=WITHIN_S, what="both partitions committed", check=worker.check_alive)


async def test_an_agent_can_set_and_delete_keys_like_in_any_faust_table(
    settings: Settings, start_tally: StartTally
) -> None:
    records = [Record(b"a", b"x"), Record(b"gone", b"x"), Record(b"a", b"x")]
    await write(settings, source(settings), {0: records, 1: [Record(b"b", b"x")]})
    worker = start_tally("setitem")
    await _until_counted(settings, worker, "a", 2)
    await write(settings, source(settings), {0: [Record(b"a", b"x"), Record(b"a", b"forget")]})
    await _until_counted(settings, worker, "a", 4)
    table = await read_table(settings.kafka, changelog(settings))
    assert {key for part in table.values() for key in part} == {b"a", b"b", *SYSTEM_KEYS}
    assert table[1][b"b"] == COUNT.encode(1)


async def test_a_recovery_that_a_rebalance_cut_off_is_not_taken_for_done(
    settings: Settings, start_tally: StartTally
) -> None:
    records = {partition: [Record(f"k{n}".encode(), b"x") for n in range(KEYS)] for partition in (0, 1)}
    await write(settings, source(settings), records)
    worker = start_tally()
    await _until_all(settings, worker, 1)
    assert worker.terminate() == 0

    interrupted = start_tally("interrupted")

    async def hangs() -> bool:
        return HANGING in interrupted.log.read_text()

    await until(hangs, within_s=WITHIN_S, what="the recovery cut off", check=interrupted.check_alive)
    # A second worker takes one partition; the first keeps the other, which it has claimed but not read.
    second = start_tally()

    async def two_members() -> bool:
        return len(await members(settings.kafka, f"{settings.namespace}-worker")) == 2

    await until(two_members, within_s=WITHIN_S, what="two workers", check=second.check_alive)
    await write(settings, source(settings), records)
    await _until_all(settings, interrupted, 2)


async def _until_all(settings: Settings, worker: Process, count: int) -> None:
    async def reached() -> bool:
        table = await read_table(settings.kafka, changelog(settings))
        found = [{key: value for key, value in table.get(p, {}).items() if key not in SYSTEM_KEYS} for p in (0, 1)]
        return all(len(part) == KEYS and set(part.values()) == {COUNT.encode(count)} for part in found)

    await until(reached, within_s=WITHIN_S, what=f"every key counted {count} times", check=worker.check_alive)
