"""Reading a whole topic: from its start to where it ended when the reading began. No consumer group."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError, for_code
from msgspec import Struct

from persona_stream.kafka.reader import free_consumer
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError, PersonaError
from persona_stream.vocabulary.topics import MAX_EVENT_BYTES

OnProgress = Callable[[int, int], None]
"""Called with (offsets read, offsets to read)."""

FETCH_BYTES = 4 * MAX_EVENT_BYTES
_POLL_MS = 500
_STALL_S = 30.0


def ignore_progress(done: int, total: int) -> None:
    """An OnProgress that shows nothing."""
    del done, total


async def read_topic(
    settings: Settings,
    topic: str,
    *,
    on_progress: OnProgress = ignore_progress,
    fetch_bytes: int = FETCH_BYTES,
    starts: Mapping[int, int] | None = None,
    ends: Mapping[int, int] | None = None,
) -> AsyncGenerator[list[ConsumerRecord], None]:
    """Every record of `topic`, by the batch; a batch is of one partition, in offset order.

    `fetch_bytes` must hold the largest record. `starts` and `ends` bound what is read, by partition: from an offset, up
    to before another; a partition that `ends` does not name is not read. Raises ConfigError where the topic is missing,
    PersonaError where the broker gives nothing for half a minute, aiokafka's KafkaConnectionError where none answers.
    """
    async with topic_consumer(settings, topic, fetch_bytes) as consumer:
        partitions = list(consumer.assignment())
        firsts, lasts = await _bounds(consumer, starts, ends)
        positions = dict(firsts)
        for partition, start in firsts.items():
            consumer.seek(partition, start)
        total = sum(lasts[p] - firsts[p] for p in partitions)
        loop = asyncio.get_running_loop()
        moved_s = loop.time()
        on_progress(0, total)
        while any(positions[p] < lasts[p] for p in partitions):
            wanted_of = [p for p in partitions if positions[p] < lasts[p]]
            batches = await consumer.getmany(*wanted_of, timeout_ms=_POLL_MS)
            for partition, records in batches.items():
                last = lasts[partition]
                wanted = records if records[-1].offset < last else [r for r in records if r.offset < last]
                if wanted:
                    yield wanted
            # Compaction may have taken the last offsets: the consumer's position passes them, no record does.
            now_at = {p: await consumer.position(p) for p in partitions}
            if now_at != positions:
                positions, moved_s = now_at, loop.time()
                on_progress(sum(min(positions[p], lasts[p]) - firsts[p] for p in partitions), total)
            elif loop.time() - moved_s > _STALL_S:
                raise PersonaError(f"topic {topic} gave no record for {_STALL_S:.0f} s.", hint="Is the broker well?")


class Bounds(Struct, frozen=True):
    """What a partition holds: from its first offset to the one before `end`."""

    first: int
    end: int


async def bounds(settings: Settings, topic: str, *, at_ms: int | None = None) -> dict[int, Bounds]:
    """Of each partition, the first offset still there, and where it ends, or ended before a time by Kafka's stamps.

    Raises as `read_topic`.
    """
    async with topic_consumer(settings, topic) as consumer:
        firsts, ends = await _bounds(consumer, None, None)
        if at_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(ends, at_ms))
            ends = {p: at.offset if (at := found.get(p)) is not None else end for p, end in ends.items()}
        return {p.partition: Bounds(first, ends[p]) for p, first in firsts.items()}


async def _bounds(
    consumer: AIOKafkaConsumer, starts: Mapping[int, int] | None, ends: Mapping[int, int] | None
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Where each partition is read from, and up to."""
    partitions = list(consumer.assignment())
    firsts: dict[TopicPartition, int] = await consumer.beginning_offsets(partitions)
    lasts: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
    if starts is not None:
        firsts = {p: max(first, starts.get(p.partition, 0)) for p, first in firsts.items()}
    if ends is not None:
        lasts = {p: min(last, ends.get(p.partition, 0)) for p, last in lasts.items()}
    return firsts, {p: max(last, firsts[p]) for p, last in lasts.items()}


@asynccontextmanager
async def topic_consumer(
    settings: Settings, topic: str, fetch_bytes: int = FETCH_BYTES
) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of all partitions of a topic. Raises ConfigError where the topic is missing."""
    partitions = await _partitions(settings, topic)
    consumer = free_consumer(
        settings,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=fetch_bytes,
        fetch_max_bytes=max(fetch_bytes, 8 * FETCH_BYTES),
    )
    try:
        await consumer.start()
        consumer.assign(partitions)
        yield consumer
    finally:
        await consumer.stop()


async def _partitions(settings: Settings, topic: str) -> list[TopicPartition]:
    # A consumer asked for a topic that is not there waits 40 s before it says so; this answers at once.
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        described = (await admin.describe_topics([topic]))[0]
    finally:
        await admin.close()
    if described["error_code"] == UnknownTopicOrPartitionError.errno:
        raise ConfigError(f"topic {topic} does not exist.", hint="`persona-stream topics --create` makes it.")
    if described["error_code"]:
        raise for_code(described["error_code"])(f"topic {topic} can't be read")
    return [TopicPartition(topic, partition["partition"]) for partition in described["partitions"]]
