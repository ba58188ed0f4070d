"""Reading a contender's durable state back from Kafka, after its run was timed."""

import asyncio
from collections.abc import Iterator, Mapping

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

READ_TIMEOUT_S = 30.0


class Change(msgspec.Struct, frozen=True, gc=False):
    """One changelog record that is not a tombstone."""

    key: bytes
    value: bytes
    headers: Mapping[str, bytes]


def latest(bootstrap: str, topic: str, partitions: int) -> Iterator[Change]:
    """The last value written for each key of ``topic``. A tombstone (an expired window) does not hide it.

    Raises TimeoutError when the topic cannot be read to its end.
    """
    return iter(asyncio.run(_latest(bootstrap, topic, partitions)).values())


async def _latest(bootstrap: str, topic: str, partitions: int) -> dict[tuple[bytes, bytes], Change]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_bytes=1 << 25,
    )
    await consumer.start()
    found: dict[tuple[bytes, bytes], Change] = {}
    try:
        assigned = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(assigned)
        ends = await consumer.end_offsets(assigned)
        open_ = {tp for tp in assigned if ends[tp]}
        while open_:
            batches = await consumer.getmany(*open_, timeout_ms=int(READ_TIMEOUT_S * 1000))
            if not batches:
                raise TimeoutError(f"{topic} could not be read to its end: nothing came for {READ_TIMEOUT_S:.0f} s")
            for records in batches.values():
                for record in records:
                    if record.value is not None:
                        headers = dict(record.headers)
                        place = (headers.get("__column_family__", b""), record.key)
                        found[place] = Change(record.key, record.value, headers)
            # the position, not the last record: compaction and transaction markers leave gaps
            for tp in list(open_):
                if await consumer.position(tp) >= ends[tp]:
                    open_.discard(tp)
    finally:
        await consumer.stop()
    return found
