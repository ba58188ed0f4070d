"""Audits in the background: what a sample of keys became, beside what the same source records make of what they were.

A round takes one partition that this worker folds, and remembers the values of some keys. A few thousand records later
it takes them again, reads the records in between from Kafka anew, and folds them once more, onto what it remembered:
all of them, since watermark and order are theirs together. Keys outside of the sample begin from nothing, and are
ignored. Values are taken between two slices; all else runs in a thread that rests as long as it works.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from xxhash import xxh3_64_intdigest

from persona_stream.kafka.reader import free_consumer
from persona_stream.stream.partition import DIGEST_MASK, Partition
from persona_stream.stream.slices import KafkaRecord, Slice
from persona_stream.vocabulary import metrics
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import topic_specs
from persona_stream.worker.app import AgentSpec
from persona_stream.worker.holdings import PartitionHolding, Taken

SAMPLE_KEYS = 100
"""Taken between two slices: encoding them holds the event loop for about half a millisecond."""
SPAN_RECORDS = 5_000
"""So many records later, a sample is taken again."""
SPAN_BYTES = 64 * 1024 * 1024
"""What came between is not read again where it is more than that, or more than twenty times SPAN_RECORDS."""
LOOK_S = 0.1
READ_S = 30.0
"""Records that don't come within this time are not waited for."""
KEYS_AT_ONCE, RECORDS_AT_ONCE = 2_000, 100
_GOLDEN = 0x9E3779B97F4A7C15
"""Steps by it around a ring of 64 bits never meet, and leave no wide gap."""

logger = logging.getLogger(__name__)


class SkippedError(Exception):
    """A round that can't be finished, through nobody's fault."""


class DeltaAudit:
    """The audits of one worker. `holdings`: the partitions that it has; `specs`: folds after the state alone."""

    def __init__(
        self, settings: Settings, holdings: Callable[[], Sequence[PartitionHolding]], specs: Sequence[AgentSpec]
    ) -> None:
        self._settings = settings
        self._holdings = holdings
        self._specs = {spec.table: spec for spec in specs}
        self._every_s = settings.audit_every_ms / 1000
        self._turn = 0
        compacted = (spec.name for spec in topic_specs(settings) if spec.config.get("cleanup.policy") == "compact")
        self._compacted = frozenset(compacted)

    async def run(self) -> None:
        """Round after round, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            holding = self._next()
            if holding is None:
                await asyncio.sleep(min(1.0, self._every_s))
                continue
            await self._round(holding, began_s + self._every_s)
            await asyncio.sleep(max(0.0, began_s + self._every_s - loop.time()))

    def _next(self) -> PartitionHolding | None:
        """The partition whose turn it is."""
        held = [holding for holding in self._holdings() if holding.stand() is not None and len(holding)]
        self._turn += 1
        return held[self._turn % len(held)] if held else None

    async def _round(self, holding: PartitionHolding, until_s: float) -> None:
        try:
            differing, keys = await self._audited(holding, until_s)
        except SkippedError as why:
            logger.info("audit of %s/%s skipped: %s", holding.table, holding.partition, why)
            metrics.AUDIT_ROUNDS.labels("skipped").inc()
            return
        except Exception:
            # Whatever is wrong with the audit must not end the worker.
            logger.exception("audit of %s/%s failed", holding.table, holding.partition)
            metrics.AUDIT_ROUNDS.labels("failed").inc()
            return
        for key in differing:
            logger.error(
                "audit: table %s, partition %s, key %r is not what its records make of it",
                holding.table,
                holding.partition,
                key,
            )
        metrics.AUDIT_ROUNDS.labels("done").inc()
        metrics.AUDIT_KEYS.labels(holding.table).inc(keys)
        metrics.AUDIT_DIFFERENCES.labels(holding.table).inc(len(differing))
        metrics.AUDIT_TIMESTAMP.set_to_current_time()

    async def _audited(self, holding: PartitionHolding, until_s: float) -> tuple[list[str], int]:
        """Keys that are not as they should be, and how many were looked at. Raises SkippedError."""
        started_s = time.perf_counter()
        ring_start = self._turn * _GOLDEN & DIGEST_MASK
        keys = await asyncio.to_thread(_sample, holding.in_memory(), ring_start)
        before = _take(holding, keys)
        metrics.AUDIT_SECONDS.inc(time.perf_counter() - started_s)
        await _until_more(holding, before, until_s)
        started_s = time.perf_counter()
        after = _take(holding, keys)
        spec = self._specs[holding.table]
        records = await self._read(spec, holding.partition, before.progress.offset, after.progress.offset)
        folded = await asyncio.to_thread(refold, spec, holding.partition, before, records)
        metrics.AUDIT_SECONDS.inc(time.perf_counter() - started_s)
        differing = {key for key in keys if not _is_equal(spec, after.values[key], folded.encoded(key))}
        return sorted(differing | before.unwritten | after.unwritten), len(keys)

    async def _read(self, spec: AgentSpec, partition: int, first: int, last: int) -> list[ConsumerRecord]:
        """Source records behind `first`, up to `last`."""
        if last <= first:
            return []
        if last - first > 20 * SPAN_RECORDS:
            raise SkippedError(f"{last - first:,} records came in between")
        tp = TopicPartition(spec.source, partition)
        consumer = free_consumer(self._settings)
        await consumer.start()
        try:
            consumer.assign([tp])
            # An offset of which nothing is left would be answered with the oldest that is.
            if (await consumer.beginning_offsets([tp]))[tp] > first + 1:
                raise SkippedError("retention has taken the records in between")
            consumer.seek(tp, first + 1)
            records = await asyncio.wait_for(_read_to(consumer, tp, last), READ_S)
        except TimeoutError:
            raise SkippedError(f"the records in between did not come within {READ_S:.0f} s") from None
        finally:
            await consumer.stop()
        if spec.source in self._compacted and len(records) != last - first:
            raise SkippedError("compaction has taken some of the records in between")
        return records


def _sample(keys: list[str], ring_start: int) -> list[str]:
    """The keys that follow a point on the ring of hashes."""

    def ranked() -> Iterator[tuple[int, str]]:
        for at in range(0, len(keys), KEYS_AT_ONCE):
            started_s = time.perf_counter()
            some = keys[at : at + KEYS_AT_ONCE]
            yield from [(xxh3_64_intdigest(key.encode()) - ring_start & DIGEST_MASK, key) for key in some]
            time.sleep(time.perf_counter() - started_s)

    return [key for _, key in heapq.nsmallest(SAMPLE_KEYS, ranked())]


def _take(holding: PartitionHolding, keys: list[str]) -> Taken:
    if holding.stand() is None:
        raise SkippedError("the partition is another worker's, or is being read back")
    return holding.take(keys)


async def _until_more(holding: PartitionHolding, before: Taken, until_s: float) -> None:
    """Wait until enough records came, or the time of the round is over."""
    loop = asyncio.get_running_loop()
    while loop.time() < until_s - LOOK_S:
        await asyncio.sleep(LOOK_S)
        stand = holding.stand()
        if stand is None or stand[holding.partition] - before.progress.offset >= SPAN_RECORDS:
            return


async def _read_to(consumer: AIOKafkaConsumer, tp: TopicPartition, last: int) -> list[ConsumerRecord]:
    records: list[ConsumerRecord] = []
    size = 0
    while await consumer.position(tp) <= last:
        for fetched in (await consumer.getmany(timeout_ms=500)).values():
            records += [record for record in fetched if record.offset <= last]
            size += sum(len(record.value or b"") for record in fetched)
        if size > SPAN_BYTES:
            raise SkippedError(f"more than {SPAN_BYTES:,} bytes came in between")
    return records


def refold(spec: AgentSpec, number: int, before: Taken, records: Sequence[KafkaRecord]) -> Partition[Any]:
    """Fold records onto the values of a sample."""
    part: Partition[Any] = Partition(spec.codec)
    for key, raw in before.values.items():
        if raw is not None:
            part.restore(key.encode(), raw)
    part.progress = before.progress
    for at in range(0, len(records), RECORDS_AT_ONCE):
        started_s = time.perf_counter()
        spec.fold.process(Slice(spec.source, number, records[at : at + RECORDS_AT_ONCE]), part)
        time.sleep(time.perf_counter() - started_s)
    return part


def _is_equal(spec: AgentSpec, held: bytes | None, folded: bytes | None) -> bool:
    if held == folded:
        return True
    # Other bytes may be the same value, of one written by another version.
    return held is not None and folded is not None and bool(spec.codec.decode(held) == spec.codec.decode(folded))
