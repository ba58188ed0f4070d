"""A changelog as it stands at its last progress record: how far a rebuild has to fold, and what it is compared with."""

import asyncio
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from msgspec import Struct, field

from persona_stream.kafka.reader import free_consumer
from persona_stream.stream.partition import PROGRESS_KEY, SYSTEM_KEYS, Progress, decode_progress
from persona_stream.vocabulary.config import Settings

FETCH_BYTES = 4 * 1024 * 1024
POLL_MS = 200
SETTLE_S = 10.0
"""How long a changelog may take to end in a progress record: workers write it within milliseconds, dead ones never."""


class Held(Struct):
    """One partition of a table."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    progress: Progress | None = None
    written_ms: int = 0
    """Kafka timestamp of the progress record."""
    behind: dict[bytes, bytes | None] = field(default_factory=dict)
    """What came after it: of a slice that is being written, or was when a worker died."""

    @property
    def folded(self) -> int:
        """The source offset before which all is in it."""
        return self.progress.offset + 1 if self.progress is not None else 0

    def apply(self, record: ConsumerRecord) -> None:
        """Take the next record."""
        if record.key == PROGRESS_KEY:
            self.settle()
            self.progress, self.written_ms = decode_progress(record.value), record.timestamp
        elif record.key not in SYSTEM_KEYS:
            self.behind[record.key] = record.value

    def settle(self) -> None:
        """Take what came behind the progress for part of it."""
        for key, value in self.behind.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        self.behind.clear()


Snapshot = dict[int, Held]
"""A table by partition."""


def covers(ends: Mapping[int, int]) -> Callable[[Snapshot], bool]:
    """Whether a table has all of its source up to these offsets."""
    return lambda snapshot: all(snapshot[p].folded >= end for p, end in ends.items())


async def read_snapshot(
    settings: Settings,
    topic: str,
    is_far_enough: Callable[[Snapshot], bool] = lambda _: True,
    *,
    settle_s: float = SETTLE_S,
) -> Snapshot:
    """Read a changelog to its end, and on for a while until it ends in a progress record and is far enough.

    Whether it got there is to be asked of what is returned.
    """
    consumer = free_consumer(settings, max_partition_fetch_bytes=FETCH_BYTES)
    await consumer.start()
    try:
        tps = [TopicPartition(topic, number) for number in range(settings.partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        ends = await consumer.end_offsets(tps)
        snapshot = {tp.partition: Held() for tp in tps}
        while [tp for tp in tps if await consumer.position(tp) < ends[tp]]:
            await _read(consumer, snapshot)
        deadline_s = asyncio.get_running_loop().time() + settle_s
        while any(held.behind for held in snapshot.values()) or not is_far_enough(snapshot):
            if asyncio.get_running_loop().time() > deadline_s:
                break
            await _read(consumer, snapshot)
        return snapshot
    finally:
        await consumer.stop()


async def _read(consumer: AIOKafkaConsumer, snapshot: Snapshot) -> None:
    for tp, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
        apply = snapshot[tp.partition].apply
        for record in records:
            apply(record)


async def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """The offset after the last record of each partition."""
    async with _asker(settings) as consumer:
        ends = await consumer.end_offsets([TopicPartition(topic, number) for number in range(settings.partitions)])
    return {tp.partition: end for tp, end in ends.items()}


async def log_starts(settings: Settings, topic: str) -> dict[int, int]:
    """The first offset that each partition still has."""
    async with _asker(settings) as consumer:
        starts = await consumer.beginning_offsets([TopicPartition(topic, p) for p in range(settings.partitions)])
    return {tp.partition: start for tp, start in starts.items()}


async def offsets_at(settings: Settings, topic: str, at_ms: int) -> dict[int, int]:
    """The offset of the first record that was written at or after a time, by partition; the end where none was."""
    async with _asker(settings) as consumer:
        tps = [TopicPartition(topic, number) for number in range(settings.partitions)]
        ends = await consumer.end_offsets(tps)
        found = await consumer.offsets_for_times(dict.fromkeys(tps, max(0, at_ms)))
    return {tp.partition: found[tp].offset if found.get(tp) is not None else ends[tp] for tp in tps}


async def committed(settings: Settings, topic: str) -> dict[int, int]:
    """What the workers' group has committed of a topic."""
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(f"{settings.namespace}-worker")
    except GroupCoordinatorNotAvailableError:
        # The first group of a new cluster: there has never been a worker.
        return {}
    finally:
        await admin.close()
    return {tp.partition: held.offset for tp, held in offsets.items() if tp.topic == topic and held.offset >= 0}


class _asker:  # noqa: N801  # used like a function
    """A consumer that only asks."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = free_consumer(settings)

    async def __aenter__(self) -> AIOKafkaConsumer:
        await self._consumer.start()
        return self._consumer

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
