"""Workers killed, drained and joined in mid-stream: the tables are what an undisturbed run leaves, exactly."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from support.cluster import bury, committed, end_offsets, members, read_all, until, write, write_keyed
from support.live import Live, decoded, prepared
from support.logs import shopping
from support.oracle import expected_tables
from support.processes import Process

from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.messages import decode_example
from tables import items as items_table
from tables import learner as learner_table
from tables.learner import LearnerState

pytestmark = pytest.mark.faults

KILLS_ANYWHERE = 5
CHUNK_EVENTS = 50
CHUNK_EVERY_S = 0.1
WITHIN_S = 60
MAX_EVENTS = 60_000

MakeLive = Callable[[], Live]


def _records(count: int, *, seed: int) -> list[Record]:
    events = shopping(count, seed=seed, users=60, items=40)
    return [Record(made["user"].encode(), orjson.dumps(made)) for made in events]


@asynccontextmanager
async def _under_load(namespace: Live, records: list[Record]) -> AsyncIterator[None]:
    """Publish chunk by chunk as long as the block runs."""
    writer = BatchWriter(namespace.settings, client_id="load")
    await writer.start()

    async def publish() -> None:
        for start in range(0, len(records), CHUNK_EVENTS):
            chunk = records[start : start + CHUNK_EVENTS]
            await writer.write_keyed(namespace.topics.events, chunk)
            await asyncio.sleep(CHUNK_EVERY_S)

    task = asyncio.create_task(publish())
    try:
        yield
        assert not task.done(), "everything was published before the faults ended: they met no load"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await writer.stop()


async def _until_folding(namespace: Live, worker: Process) -> None:
    """Wait until a table's changelog grows: the worker is in the middle of its work."""
    kafka, topic = namespace.settings.kafka, namespace.topics.changelog("users")
    before = await end_offsets(kafka, topic)

    async def grown() -> bool:
        return await end_offsets(kafka, topic) != before

    await until(grown, within_s=WITHIN_S, what="events folded", check=worker.check_alive)


async def _assert_state_is_exact(namespace: Live) -> None:
    """Users to the byte, items to the value; as many examples learned as there are, each once."""
    events = await read_all(namespace.settings.kafka, namespace.topics.events)
    users, items = expected_tables(namespace.settings, events)
    assert await namespace.table("users") == users
    assert decoded(items_table.codec, await namespace.table("items")) == items
    assert await _learned(namespace) == await _distinct_examples(namespace)


async def _learned(namespace: Live) -> dict[int, tuple[int, int]]:
    codec: Codec[LearnerState] = learner_table.codec
    found = {}
    for partition, part in (await namespace.table("learner")).items():
        (state,) = [codec.decode(value) for value in part.values()]
        assert state.refused == 0
        found[partition] = (state.online.examples, state.online.positives)
    return found


async def _distinct_examples(namespace: Live) -> dict[int, tuple[int, int]]:
    labels: dict[int, dict[tuple[str, str], int]] = {}
    for record in await read_all(namespace.settings.kafka, namespace.topics.examples):
        example = decode_example(record.value)
        labels.setdefault(record.partition, {})[(example.group, example.items[0])] = example.labels[0]
    return {partition: (len(rows), sum(rows.values())) for partition, rows in labels.items()}


async def test_ten_kills_in_mid_stream_leave_the_state_of_an_undisturbed_run(make_live: MakeLive) -> None:
    random_ = random.Random(7)
    disturbed, undisturbed = await prepared(make_live), await prepared(make_live)
    async with _under_load(disturbed, _records(MAX_EVENTS, seed=1)):
        for moment, topic in _points_of_death(disturbed):
            worker = disturbed.start_doomed_worker(moment, topic)
            assert await asyncio.to_thread(worker.wait, within_s=WITHIN_S) == -signal.SIGKILL, worker.log_tail()
            await disturbed.kill(worker)
        for _ in range(KILLS_ANYWHERE):
            worker = disturbed.start_worker()
            await _until_folding(disturbed, worker)
            # Anywhere in what follows, be it a fetch, a fold or a write.
            await asyncio.sleep(0.5 * random_.random())
            await disturbed.kill(worker)
        disturbed.start_worker()
    await disturbed.until_applied()

    await _copy_events(disturbed, undisturbed)
    undisturbed.start_worker()
    await undisturbed.until_applied()

    assert await disturbed.table("users") == await undisturbed.table("users")
    assert await _items(disturbed) == await _items(undisturbed)
    assert await _learned(disturbed) == await _learned(undisturbed)
    await _assert_state_is_exact(disturbed)
    redelivered = len(await read_all(disturbed.settings.kafka, disturbed.topics.item_events)) - len(
        await read_all(undisturbed.settings.kafka, undisturbed.topics.item_events)
    )
    assert redelivered > 0, "no kill fell between emissions and changelog: the test did not test it"


def _points_of_death(namespace: Live) -> list[tuple[str, str]]:
    """Every gap between two writes of a slice: what was written is repeated, what was not is not lost."""
    topics = namespace.topics
    return [
        ("before", topics.item_events),
        ("before", topics.changelog("users")),
        ("after", topics.changelog("users")),
        ("before", topics.changelog("items")),
        ("before", topics.changelog("learner")),
    ]


async def _copy_events(source: Live, target: Live) -> None:
    """The same log, offset by offset."""
    parts: dict[int, list[Record]] = {}
    for record in await read_all(source.settings.kafka, source.topics.events):
        parts.setdefault(record.partition, []).append(Record(record.key, record.value))
    await write(target.settings, target.topics.events, parts)


async def _items(namespace: Live) -> dict[str, Any]:
    return decoded(items_table.codec, await namespace.table("items"))


async def test_sigterm_drains_and_commits_just_what_was_applied(make_live: MakeLive) -> None:
    namespace = await prepared(make_live)
    await write_keyed(namespace.settings, namespace.topics.events, _records(20_000, seed=2))
    worker = namespace.start_worker()
    await _until_folding(namespace, worker)
    started_s = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - started_s < 20
    assert await members(namespace.settings.kafka, namespace.group) == []
    for table, source in (
        ("users", namespace.topics.events),
        ("items", namespace.topics.item_events),
        ("learner", namespace.topics.examples),
    ):
        applied = {p: progress.offset + 1 for p, progress in (await namespace.progress(table)).items()}
        assert await committed(namespace.settings.kafka, namespace.group, source) == applied, table
    namespace.start_worker()
    await namespace.until_applied()
    await _assert_state_is_exact(namespace)


async def test_a_worker_joins_and_another_is_killed(make_live: MakeLive) -> None:
    namespace = await prepared(make_live)
    kafka, group = namespace.settings.kafka, namespace.group
    async with _under_load(namespace, _records(MAX_EVENTS, seed=3)):
        first = namespace.start_worker()
        await _until_folding(namespace, first)
        (first_member,) = await members(kafka, group)
        second = namespace.start_worker()

        async def joined() -> bool:
            return len(await members(kafka, group)) == 2

        await until(joined, within_s=WITHIN_S, what="two workers in the group", check=second.check_alive)
        await _until_both_fold(namespace, second)
        first.kill()
        await bury(kafka, group, [first_member])
        await _until_both_fold(namespace, second)
        third = namespace.start_worker()
        await until(joined, within_s=WITHIN_S, what="two workers again", check=third.check_alive)
        await _until_both_fold(namespace, third)
    await namespace.until_applied()
    await _assert_state_is_exact(namespace)


async def _until_both_fold(namespace: Live, worker: Process) -> None:
    """Wait until each partition of the users table has changed."""
    kafka, topic = namespace.settings.kafka, namespace.topics.changelog("users")
    before = await end_offsets(kafka, topic)

    async def all_grown() -> bool:
        ends = await end_offsets(kafka, topic)
        return all(ends[partition] > before[partition] for partition in before)

    await until(all_grown, within_s=WITHIN_S, what="both partitions folded", check=worker.check_alive)
