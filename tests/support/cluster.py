"""A test's view of Kafka: topics made, written and read to their end, and what a consumer group has committed."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import GroupCoordinatorNotAvailableError, NodeNotReadyError
from aiokafka.protocol.group import LeaveGroupRequest

from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings

POLL_S = 0.2
Table = dict[int, dict[bytes, bytes]]
"""Partition -> key -> value, as a compacted changelog tells."""


@asynccontextmanager
async def admin_of(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def create_topic(bootstrap: str, name: str, partitions: int, config: Mapping[str, str] | None = None) -> None:
    """Create a topic that must be new."""
    async with admin_of(bootstrap) as admin:
        response = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=dict(config or {}))])
    assert [code for _, code, *_ in response.topic_errors] == [0], response


async def alter_topic(bootstrap: str, name: str, config: Mapping[str, str]) -> None:
    """Give a topic these settings, and no others."""
    await _alter(bootstrap, ConfigResource(ConfigResourceType.TOPIC, name, dict(config)))


COMPACT_AT_ONCE = {
    "cleanup.policy": "compact",
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "0",
}
"""Each record that comes later than that closes its segment; the cleaner takes what little there is."""


@asynccontextmanager
async def quick_cleaner(bootstrap: str) -> AsyncIterator[None]:
    """The broker's log cleaner looks for work ten times a second, not every 15 s."""
    async with admin_of(bootstrap) as admin:
        described = await admin.describe_cluster()
    broker = str(described["brokers"][0]["node_id"])
    await _alter(bootstrap, ConfigResource(ConfigResourceType.BROKER, broker, {"log.cleaner.backoff.ms": "100"}))
    try:
        yield
    finally:
        await _alter(bootstrap, ConfigResource(ConfigResourceType.BROKER, broker, {}))


async def _alter(bootstrap: str, resource: ConfigResource) -> None:
    async with admin_of(bootstrap) as admin:
        (*_, answer) = await admin.alter_configs([resource])
    assert [code for code, *_ in answer.resources] == [0], answer


async def write(settings: Settings, topic: str, parts: Mapping[int, list[Record]]) -> None:
    """Write records to given partitions."""
    writer = BatchWriter(settings, client_id="test")
    await writer.start()
    try:
        await writer.write(topic, dict(parts))
    finally:
        await writer.stop()


async def write_keyed(settings: Settings, topic: str, records: list[Record]) -> None:
    """Write records to their keys' partitions."""
    writer = BatchWriter(settings, client_id="test")
    await writer.start()
    try:
        await writer.write_keyed(topic, records)
    finally:
        await writer.stop()


async def delete_records(bootstrap: str, topic: str, before: Mapping[int, int]) -> None:
    """Have Kafka delete the records of partitions before given offsets."""
    async with admin_of(bootstrap) as admin:
        deleted = {TopicPartition(topic, number): RecordsToDelete(offset) for number, offset in before.items()}
        await admin.delete_records(deleted)


async def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """The offset after the last record of each partition."""
    tps = await _partitions(bootstrap, topic)
    async with _consumer(bootstrap) as consumer:
        ends = await consumer.end_offsets(tps)
    return {tp.partition: end for tp, end in ends.items()}


async def read_all(bootstrap: str, topic: str) -> list[ConsumerRecord]:
    """Every record of a topic, partition by partition, up to its end as of now."""
    tps = await _partitions(bootstrap, topic)
    async with _consumer(bootstrap) as consumer:
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        found: dict[TopicPartition, list[ConsumerRecord]] = {tp: [] for tp in tps}
        while [tp for tp in tps if await consumer.position(tp) < ends[tp]]:
            for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                found[tp] += [record for record in records if record.offset < ends[tp]]
    return [record for tp in sorted(found) for record in found[tp]]


async def read_last(bootstrap: str, topic: str, count: int) -> list[ConsumerRecord]:
    """The records at the last `count` offsets of each partition."""
    found: list[ConsumerRecord] = []
    async with _consumer(bootstrap) as consumer:
        ends = await consumer.end_offsets(await _partitions(bootstrap, topic))
        consumer.assign(list(ends))
        for tp, end in ends.items():
            consumer.seek(tp, max(0, end - count))
        while [tp for tp, end in ends.items() if await consumer.position(tp) < end]:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += records
    return found


async def read_table(bootstrap: str, changelog: str) -> Table:
    """What a changelog says: every key's last value, tombstones left out."""
    table: Table = {}
    for record in await read_all(bootstrap, changelog):
        part = table.setdefault(record.partition, {})
        if record.value is None:
            part.pop(record.key, None)
        else:
            part[record.key] = record.value
    return table


async def committed(bootstrap: str, group: str, topic: str) -> dict[int, int]:
    """The offsets that a group has committed of a topic."""
    async with admin_of(bootstrap) as admin:
        try:
            offsets = await admin.list_consumer_group_offsets(group)
        except (GroupCoordinatorNotAvailableError, NodeNotReadyError):
            # The first group of a new broker: it creates its own topic for that just now. Or the broker was away, and
            # nobody leads yet.
            return {}
    return {tp.partition: held.offset for tp, held in offsets.items() if tp.topic == topic and held.offset >= 0}


async def set_committed(bootstrap: str, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Commit offsets for a group that has no members."""
    asked = {TopicPartition(topic, partition): offset for partition, offset in offsets.items()}
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(list(asked))
        await consumer.commit(asked)
    finally:
        await consumer.stop()


async def members(bootstrap: str, group: str) -> list[str]:
    """The ids of a group's members, dead ones included until their session times out."""
    async with admin_of(bootstrap) as admin:
        (response,) = await admin.describe_consumer_groups([group])
    return [member[0] for described in response.groups for member in described[5]]


async def bury(bootstrap: str, group: str, dead: list[str]) -> None:
    """Take dead members out of a group, as their session timeout would in a while."""
    async with admin_of(bootstrap) as admin:
        coordinator = await admin.find_coordinator(group)
        for member in dead:
            await admin._send_request(LeaveGroupRequest(group, member), coordinator)


async def until(
    condition: Callable[[], Awaitable[bool]], *, within_s: float, what: str, check: Callable[[], None] | None = None
) -> None:
    """Wait until a condition holds; fails with `what` after `within_s`. `check` may raise earlier."""
    deadline = time.monotonic() + within_s
    while not await condition():
        if check is not None:
            check()
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(POLL_S)


@asynccontextmanager
async def _consumer(bootstrap: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=8 << 20,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def _partitions(bootstrap: str, topic: str) -> list[TopicPartition]:
    async with admin_of(bootstrap) as admin:
        (described,) = await admin.describe_topics([topic])
    assert described["error_code"] == 0, f"{topic}: {described}"
    return [TopicPartition(topic, number) for number in range(len(described["partitions"]))]
