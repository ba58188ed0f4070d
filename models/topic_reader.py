"""Reading a whole topic: from its start to where it ended when the reading began. No consumer group."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError, for_code

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
) -> AsyncIterator[list[ConsumerRecord]]:
    """Every record of `topic`, by the batch; a batch is of one partition, in offset order.

    `fetch_bytes` must hold the largest record. Raises ConfigError where the topic is missing, PersonaError
    where the broker gives nothing for half a minute, and aiokafka's KafkaConnectionError where none answers.
    """
    async with _consumer(settings, topic, fetch_bytes) as consumer:
        partitions = list(consumer.assignment())
        starts: dict[TopicPartition, int] = await consumer.beginning_offsets(partitions)
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        positions = dict(starts)
        for partition, start in starts.items():
            consumer.seek(partition, start)
        total = sum(ends[p] - starts[p] for p in partitions)
        loop = asyncio.get_running_loop()
        moved_s = loop.time()
        on_progress(0, total)
        while any(positions[p] < ends[p] for p in partitions):
            batches = await consumer.getmany(timeout_ms=_POLL_MS)
            for partition, records in batches.items():
                wanted = [record for record in records if record.offset < ends[partition]]
                if wanted:
                    yield wanted
            # Compaction may have taken the last offsets: the consumer's position passes them, no record does.
            now_at = {p: await consumer.position(p) for p in partitions}
            if now_at != positions:
                positions, moved_s = now_at, loop.time()
                on_progress(sum(min(positions[p], ends[p]) - starts[p] for p in partitions), total)
            elif loop.time() - moved_s > _STALL_S:
                raise PersonaError(f"topic {topic} gave no record for {_STALL_S:.0f} s.", hint="Is the broker well?")


@asynccontextmanager
async def _consumer(settings: Settings, topic: str, fetch_bytes: int) -> AsyncIterator[AIOKafkaConsumer]:
    partitions = await _partitions(settings, topic)
    consumer = AIOKafkaConsumer(
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=fetch_bytes,
        fetch_max_bytes=max(fetch_bytes, 8 * FETCH_BYTES),
        **settings.kafka_client(),
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
