"""Consumers that read topics as they stand, without a group; and for every consumer, what aiokafka spends most on.

aiokafka computes a batch's CRC-32C in software, at 1.3 GB/s: of the time to read large state back, that was a third.
The processor's own instruction does ten times as much. And it makes a dataclass of each record, which takes longer than
decoding it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import google_crc32c
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from msgspec import Struct

from persona_stream.vocabulary.config import Settings

# The layout of a record batch: base offset, length, leader epoch, magic, CRC, and what the CRC is of.
_LENGTH, _MAGIC, _CRC, _CHECKED = slice(8, 12), 16, slice(17, 21), 21
_LENGTH_FROM = 12
_FIRST_MAGIC_OF_BATCHES = 2


def free_consumer(settings: Settings, **options: Any) -> AIOKafkaConsumer:
    """A consumer, not started, that no group knows of. `options` are AIOKafkaConsumer's.

    What it reads is checked: `getmany` raises CorruptRecordException where a batch is not as it was written.
    """
    return AIOKafkaConsumer(
        group_id=None, enable_auto_commit=False, check_crcs=False, **settings.kafka_client(), **options
    )


class CheckedRecords(MemoryRecords):  # type: ignore[misc]  # aiokafka tells no types
    """The batches of a fetched piece of a partition, each checked before it is given."""

    def __init__(self, raw: bytes) -> None:
        """`raw`: record batches as the broker sends them, the last one perhaps in part."""
        super().__init__(raw)
        self._raw = raw
        self._at = 0

    def next_batch(self) -> Any:
        """The next batch, ready to be iterated. Raises CorruptRecordException."""
        batch = super().next_batch()
        header = self._raw[self._at : self._at + _CHECKED]
        start, end = self._at + _CHECKED, self._at + _LENGTH_FROM + int.from_bytes(header[_LENGTH], "big")
        self._at = end
        if header[_MAGIC] < _FIRST_MAGIC_OF_BATCHES:
            is_whole = batch.validate_crc()
        else:
            is_whole = google_crc32c.value(self._raw[start:end]) == int.from_bytes(header[_CRC], "big")
        if not is_whole:
            raise CorruptRecordException(f"the batch at offset {batch.base_offset} is not as it was written")
        return batch


class FetchedRecord(Struct, gc=False):
    """A record as aiokafka's ConsumerRecord tells it, made in half of the time."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since the epoch."""
    timestamp_type: int
    """0: its producer's clock, 1: the broker's."""
    key: Any
    value: Any
    headers: Sequence[tuple[str, bytes]]


class FetchedRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka tells no types
    """The records of a fetched piece of a partition."""

    def __iter__(self) -> Iterator[FetchedRecord]:
        """Without a call of Python's for each of them."""
        return iter(self._records_iterator or ())

    def _consumer_record(self, tp: TopicPartition, record: Any) -> FetchedRecord:
        key, value = record.key, record.value
        if self._key_deserializer:
            key = self._key_deserializer(key)
        if self._value_deserializer:
            value = self._value_deserializer(value)
        return FetchedRecord(
            tp.topic,
            tp.partition,
            record.offset,
            record.timestamp,
            record.timestamp_type,
            key,
            value,
            tuple(record.headers),
        )


# aiokafka has no setting for it: its fetcher wraps whatever it fetched in these classes.
assert fetcher.MemoryRecords in {MemoryRecords, CheckedRecords}
fetcher.MemoryRecords, fetcher.PartitionRecords = CheckedRecords, FetchedRecords
