"""What is read is what was written: a broker's disk that changes a byte is noticed."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import CorruptRecordException

from persona_stream.broker import EmbeddedBroker
from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.reader import free_consumer
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import TopicSpec

TOPIC = "checked"
BATCHES = 3


async def test_a_byte_that_changes_on_the_brokers_disk_is_noticed(tmp_path: Path, jar_cache: Path) -> None:
    broker = EmbeddedBroker(tmp_path, cache_dir=jar_cache)
    try:
        settings = Settings.load({"kafka": broker.start(), "home": tmp_path}, env={})
        await ensure_topics(settings, [TopicSpec(TOPIC, 1, {})])
        await _write(settings)
        broker.stop()
        (segment,) = (tmp_path / "kafka" / "data" / f"{TOPIC}-0").glob("*.log")
        held = segment.read_bytes()
        assert held.count(b"value 1") == 1
        segment.write_bytes(held.replace(b"value 1", b"value 9"))
        settings = msgspec.structs.replace(settings, kafka=broker.start())
        assert await _read(settings, offset=0, count=1) == [b"value 0"]
        assert await _read(settings, offset=2, count=1) == [b"value 2"]
        with pytest.raises(CorruptRecordException, match="offset 1 is not as it was written"):
            await _read(settings, offset=1, count=1)
    finally:
        broker.stop()


async def test_records_are_told_as_they_were_written(tmp_path: Path, jar_cache: Path) -> None:
    broker = EmbeddedBroker(tmp_path, cache_dir=jar_cache)
    try:
        settings = Settings.load({"kafka": broker.start(), "home": tmp_path}, env={})
        await ensure_topics(settings, [TopicSpec(TOPIC, 1, {})])
        async with AIOKafkaProducer(**settings.kafka_client()) as producer:
            sent = [
                producer.send(TOPIC, b"v", key=b"k", partition=0, timestamp_ms=5, headers=[("h", b"1"), ("h", b"")]),
                producer.send(TOPIC, None, key=b"k", partition=0, timestamp_ms=6),
                producer.send(TOPIC, b"", partition=0, timestamp_ms=7),
            ]
            # One batch, from which they are taken one by one below.
            await asyncio.gather(*[await one for one in sent])
        async with free_consumer(settings) as consumer:
            consumer.assign([tp := TopicPartition(TOPIC, 0)])
            await consumer.seek_to_beginning()
            told = [await consumer.getone()]
            while len(told) < len(sent):
                told += (await consumer.getmany(timeout_ms=500, max_records=1)).get(tp, [])
        assert [msgspec.structs.astuple(one) for one in told] == [
            (TOPIC, 0, 0, 5, 0, b"k", b"v", (("h", b"1"), ("h", b""))),
            (TOPIC, 0, 1, 6, 0, b"k", None, ()),
            (TOPIC, 0, 2, 7, 0, None, b"", ()),
        ]
    finally:
        broker.stop()


async def _write(settings: Settings) -> None:
    producer = AIOKafkaProducer(**settings.kafka_client())
    await producer.start()
    for number in range(BATCHES):
        # Each is acknowledged before the next: a batch of its own.
        await producer.send_and_wait(TOPIC, f"value {number}".encode(), partition=0)
    await producer.stop()


async def _read(settings: Settings, *, offset: int, count: int) -> list[bytes]:
    consumer, tp = free_consumer(settings), TopicPartition(TOPIC, 0)
    await consumer.start()
    try:
        consumer.assign([tp])
        consumer.seek(tp, offset)
        values: list[bytes] = []
        while len(values) < count:
            for records in (await consumer.getmany(timeout_ms=500, max_records=count)).values():
                values += [record.value for record in records]
        return values
    finally:
        await consumer.stop()
