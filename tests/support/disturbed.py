"""What the fault tests share: load, the moment when a worker is in its work, and what state must be afterwards."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import orjson

from agents.learner import NEGATIVES_LEARNED
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.stream.partition import Codec, entry_digest
from persona_stream.vocabulary.messages import decode_example
from persona_stream.vocabulary.topics import TABLES
from support.cluster import read_all, until, write
from support.live import Live, decoded
from support.logs import DISORDER_MS, T0_MS, shop
from support.oracle import expected_tables
from support.processes import Process
from tables import items as items_table
from tables import learner as learner_table
from tables.learner import LearnerState

CHUNK_EVENTS = 50
CHUNK_EVERY_S = 0.1
WITHIN_S = 60
EVENTS_A_CYCLE = 6_000
"""What is published in 12 seconds of load: more than one fault and its repair take."""


def shopping_records(count: int, *, seed: int) -> list[Record]:
    """A log of shopping events, ready to publish."""
    return list(_shopping_records(count, seed))


def _shopping_records(count: int, seed: int) -> Iterator[Record]:
    for made in shop(count, seed=seed, users=60, items=40, disorder_ms=DISORDER_MS):
        yield Record(made["user"].encode(), orjson.dumps(made))


def item_records(count: int) -> list[Record]:
    """Versions of as many items of that log, ready to publish."""
    made = [{"id": f"i{n}", "ts": T0_MS + n, "attributes": {"price": n}} for n in range(count)]
    return [Record(str(one["id"]).encode(), orjson.dumps(one)) for one in made]


def profile_records(count: int) -> list[Record]:
    """Profiles of as many users of that log, ready to publish."""
    made = [{"user": f"u{n}", "ts": T0_MS + n, "traits": {"plan": "gold"}} for n in range(count)]
    return [Record(str(one["user"]).encode(), orjson.dumps(one)) for one in made]


def load_for(cycles: int, *, seed: int) -> Iterator[Record]:
    """Events for as long as so many faults, one after the other, take to happen; made as they are published."""
    return _shopping_records(max(10, cycles) * EVENTS_A_CYCLE, seed)


@asynccontextmanager
async def under_load(namespace: Live, records: Iterable[Record]) -> AsyncIterator[None]:
    """Publish chunk by chunk as long as the block runs."""
    task = asyncio.create_task(publish_in_chunks(namespace, records))
    try:
        yield
        if task.done():
            task.result()
            raise AssertionError("everything was published before the faults ended: they met no load")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def publish_in_chunks(namespace: Live, records: Iterable[Record]) -> None:
    """Publish at a pace at which every slice is small."""
    writer = BatchWriter(namespace.settings, client_id="load")
    await writer.start()
    try:
        left = iter(records)
        while chunk := list(islice(left, CHUNK_EVENTS)):
            await writer.write_keyed(namespace.topics.events, chunk)
            await asyncio.sleep(CHUNK_EVERY_S)
    finally:
        await writer.stop()


async def until_folding(namespace: Live, worker: Process) -> None:
    """Wait until more events are committed: the worker is in the middle of its work, not in its recovery."""
    before = await namespace.events_committed()

    async def grown() -> bool:
        return await namespace.events_committed() != before

    await until(grown, within_s=WITHIN_S, what="events folded", check=worker.check_alive)


async def assert_state_is_exact(namespace: Live) -> None:
    """Users to the byte, items to the value; as many examples learned as there are, each once; digests right."""
    events = await read_all(namespace.settings.kafka, namespace.topics.events)
    users, items = expected_tables(namespace.settings, events)
    assert await namespace.table("users") == users
    assert decoded(items_table.codec, await namespace.table("items")) == items
    assert await learned(namespace) == await _distinct_examples(namespace)
    for table in TABLES:
        await _assert_digests_are_right(namespace, table)


async def _assert_digests_are_right(namespace: Live, table: str) -> None:
    progress = await namespace.progress(table)
    for partition, part in (await namespace.table(table)).items():
        if partition in progress:
            digest = sum(entry_digest(key, raw) for key, raw in part.items()) % 2**64
            assert (progress[partition].digest, progress[partition].keys) == (digest, len(part)), (table, partition)


async def learned(namespace: Live) -> dict[int, tuple[int, int]]:
    """Examples and positives learned, by partition."""
    codec: Codec[LearnerState] = learner_table.codec
    found = {}
    for partition, part in (await namespace.table("learner")).items():
        (state,) = [codec.decode(value) for value in part.values()]
        assert state.refused == 0
        found[partition] = (state.online.examples, state.online.positives)
    return found


async def _distinct_examples(namespace: Live) -> dict[int, tuple[int, int]]:
    """Rows and positives that a learner must have learned from, by partition: of each example once."""
    rows: dict[int, dict[tuple[int, int], tuple[int, int]]] = {}
    for record in await read_all(namespace.settings.kafka, namespace.topics.examples):
        example = decode_example(record.value)
        left = sum(label == 0 for label in example.labels)
        # Of a whole list some of what was left alone; what was chosen came before, by itself.
        counts = (min(left, NEGATIVES_LEARNED), 0)
        if example.origin == "online":
            counts = (len(example.labels), len(example.labels) - left)
        rows.setdefault(record.partition, {})[example.source_partition, example.source_offset] = counts
    sums = {partition: tuple(map(sum, zip(*found.values(), strict=True))) for partition, found in rows.items()}
    return {partition: (examples, positives) for partition, (examples, positives) in sums.items()}


async def items(namespace: Live) -> dict[str, Any]:
    """The items table, decoded."""
    return decoded(items_table.codec, await namespace.table("items"))


async def copy_events(source: Live, target: Live) -> None:
    """The same log, offset by offset."""
    parts: dict[int, list[Record]] = {}
    for record in await read_all(source.settings.kafka, source.topics.events):
        parts.setdefault(record.partition, []).append(Record(record.key, record.value))
    await write(target.settings, target.topics.events, parts)
