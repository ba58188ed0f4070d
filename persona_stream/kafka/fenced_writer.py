"""Writing partitions as their only owner: once another claims one, Kafka refuses what the former owner still sends.

A worker that was paused for longer than its group waits does not know that its partitions are another's by now. What it
then wrote would stand behind newer values, and win. See docs/adr/0007-fenced-changelogs.md.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from itertools import count
from time import monotonic, time_ns

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, NotLeaderForPartitionError, for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from persona_stream.kafka.claims import Producer, claim
from persona_stream.kafka.writer import BATCH_BYTES, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import PartitionLostError

RENEW_S = 12 * 3600.0
"""A claim older than this is renewed before the next write: Kafka forgets names after 7 days, epochs after one."""
PRODUCE_TIMEOUT_MS = 30_000
RETRY_S = 0.1
WARN_EVERY = 50

UNKNOWN = -1
_NO_ERROR, _TWICE = 0, 46
_FENCED = frozenset({47, 90})
_ALL_REPLICAS = -1
_MAGIC = 2
_SEQUENCES = 2**31

logger = logging.getLogger(__name__)


class _Ownership:
    """One partition: the claim it is written under, the next record's sequence number, and where the log ends."""

    __slots__ = ("claimed_s", "end_offset", "lock", "producer", "sequence")

    def __init__(self, producer: Producer) -> None:
        self.renew(producer)
        self.end_offset = UNKNOWN
        self.lock = asyncio.Lock()

    def renew(self, producer: Producer) -> None:
        self.producer = producer
        self.sequence = 0
        self.claimed_s = monotonic()


class FencedWriter:
    """An idempotent producer of its own for each partition claimed; `acks=all`, one batch of a partition at a time."""

    def __init__(self, settings: Settings, *, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._client: AIOKafkaClient | None = None
        self._owned: dict[TopicPartition, _Ownership] = {}

    async def start(self) -> None:
        """Connect. Raises aiokafka's KafkaConnectionError where no broker answers."""
        client = AIOKafkaClient(client_id=self._client_id, **self._settings.kafka_client())
        try:
            await client.bootstrap()
        except BaseException:
            await client.close()
            raise
        self._client = client

    async def stop(self) -> None:
        """Disconnect; claims stay until others are made."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @property
    def client(self) -> AIOKafkaClient:
        """The client underneath; it must have been started."""
        if self._client is None:
            raise RuntimeError("FencedWriter.start() was not awaited")
        return self._client

    async def claim(self, topic: str, partition: int, mark: Record) -> None:
        """Become the owner, and write `mark`: from then on all that former owners send is refused."""
        tp = TopicPartition(topic, partition)
        await self.client.add_topic(topic)
        owned = _Ownership(await claim(self.client, _name(tp)))
        async with owned.lock:
            await self._append(tp, owned, [mark])
        self._owned[tp] = owned

    async def append(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        """Write records in order; returns when Kafka has all. Tries on while the partition has no leader.

        Raises PartitionLostError where another has claimed the partition, KafkaError where Kafka refuses.
        """
        tp = TopicPartition(topic, partition)
        owned = self._owned.get(tp)
        if owned is None:
            raise PartitionLostError(f"{topic}/{partition} is not this worker's.")
        async with owned.lock:
            if monotonic() - owned.claimed_s > RENEW_S:
                owned.renew(await claim(self.client, _name(tp), owned.producer))
            await self._append(tp, owned, records)

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset after the last record written; UNKNOWN without a claim, or where Kafka did not tell."""
        owned = self._owned.get(TopicPartition(topic, partition))
        return owned.end_offset if owned is not None else UNKNOWN

    async def _append(self, tp: TopicPartition, owned: _Ownership, records: Sequence[Record]) -> None:
        for builder, number in _batches(records, owned):
            base_offset = await self._send(tp, bytes(builder.build()))
            owned.sequence = (owned.sequence + number) % _SEQUENCES
            owned.end_offset = base_offset + number if base_offset >= 0 else UNKNOWN

    async def _send(self, tp: TopicPartition, batch: bytes) -> int:
        """Have a batch in the log once, however often it must be sent; returns its first offset, -1 if not told."""
        request = ProduceRequest(
            transactional_id=None,
            required_acks=_ALL_REPLICAS,
            timeout=PRODUCE_TIMEOUT_MS,
            topics=[(tp.topic, [(tp.partition, batch)])],
        )
        for attempt in count(1):
            error: KafkaError
            try:
                code, base_offset = await self._request(tp, request)
            except KafkaError as failure:
                error = failure
            else:
                if code in {_NO_ERROR, _TWICE}:
                    return base_offset if code == _NO_ERROR else UNKNOWN
                if code in _FENCED:
                    raise PartitionLostError(
                        f"{tp.topic}/{tp.partition} was claimed by another worker: this one was paused, or cut off "
                        "from Kafka, for longer than its group waits."
                    )
                error = for_code(code)(f"{tp.topic}/{tp.partition}")
            if not error.retriable:
                raise error
            if attempt % WARN_EVERY == 0:
                logger.warning("%s/%s can't be written yet, tried %s times: %r", tp.topic, tp.partition, attempt, error)
            await self.client.force_metadata_update()
            await asyncio.sleep(RETRY_S)
        raise AssertionError("unreachable")

    async def _request(self, tp: TopicPartition, request: ProduceRequest) -> tuple[int, int]:
        leader = self.client.cluster.leader_for_partition(tp)
        if leader is None or leader < 0:
            raise NotLeaderForPartitionError
        answer = await self.client.send(leader, request)
        (_, ((_, code, base_offset, *_),)), *_ = answer.topics
        return code, base_offset


def _name(tp: TopicPartition) -> str:
    return f"{tp.topic}-{tp.partition}"


def _batches(records: Sequence[Record], owned: _Ownership) -> Iterator[tuple[DefaultRecordBatchBuilder, int]]:
    """Batches of at most BATCH_BYTES (a larger record is one of its own), each built as its turn comes."""
    at = 0
    while at < len(records):
        builder = DefaultRecordBatchBuilder(
            magic=_MAGIC,
            compression_type=0,
            is_transactional=0,
            producer_id=owned.producer.id,
            producer_epoch=owned.producer.epoch,
            base_sequence=owned.sequence,
            batch_size=BATCH_BYTES,
        )
        now_ms = time_ns() // 1_000_000
        number = 0
        for record in records[at:]:
            if builder.append(number, now_ms, record.key, record.value, record.headers) is None:
                break
            number += 1
        at += number
        yield builder, number
