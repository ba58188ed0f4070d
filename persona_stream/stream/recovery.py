"""Reading state back from changelogs: by the batch, on a connection of its own, as the partitions' new owner.

Faust reads changelogs record by record, in the flow of its consumer, and waits without end where one stops short. Here
a partition is claimed first, so that what is read to its end is final, then read as fast as it comes; what does not
come any more ends the worker with an error that says so.
"""

import asyncio
import os
import platform
from collections.abc import Iterable
from time import monotonic
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError
from faust.tables import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from faust.types import TP, CollectionT
from mode import Service

from persona_stream.kafka.fenced_writer import FencedWriter
from persona_stream.kafka.reader import free_consumer
from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import OWNER_KEY, Partition
from persona_stream.stream.table import ChangelogTable
from persona_stream.vocabulary import metrics
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import RecoveryError

FETCH_BYTES = 1024 * 1024
POLL_MS = 1000
TOLD_EVERY_S = 5.0
STOP_S = 2.0
"""How long the end of a recovery waits for its connection to close; a stuck one closes when its fetch times out."""


class RecoveringApp(Protocol):
    """What recovery needs of its app."""

    settings: Settings
    changelogs: FencedWriter


class ChangelogRecovery(Recovery):
    """Replaces how Faust recovers; when it does, and what follows, stay Faust's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._whole: set[TP] = set()
        """Partitions read to their end, and this worker's ever since; a rebalance may cut a recovery off."""
        super().__init__(*args, **kwargs)

    @Service.task
    async def _restart_recovery(self) -> None:
        while not await self.wait_for_stopped(self.signal_recovery_start):  # type: ignore[arg-type]  # as Faust does
            self.signal_recovery_start.clear()
            generation_id = self._generation_id
            self._set_recovery_started()
            started_s = monotonic()
            try:
                await self._wait(self._recover())
                metrics.RECOVERY_SECONDS.inc(monotonic() - started_s)
                await self._wait(self.on_recovery_completed(generation_id))
            except (RebalanceAgain, IllegalStateError):
                continue
            except ServiceStopped:
                break

    @Service.task
    async def _slurp_changelogs(self) -> None:
        """Nothing to do: changelogs stay paused in Faust's consumer."""

    @Service.task
    async def _publish_stats(self) -> None:
        """Nothing to do: `_read` tells how far it is."""

    async def _recover(self) -> None:
        app = cast(RecoveringApp, self.app)
        tables: dict[TP, ChangelogTable[Any]] = {}
        for assigned in self.active_tps:
            table = _changelog_table(self.tp_to_table[assigned])
            tables[TP(table.changelog, assigned.partition)] = table
        reader = free_consumer(app.settings, max_partition_fetch_bytes=FETCH_BYTES)
        await reader.start()
        try:
            self._whole &= tables.keys()
            self._whole -= await _changed_by_others(app.changelogs, reader, self._whole)
            lost = sorted(tables.keys() - self._whole)
            mark = Record(OWNER_KEY, f"{platform.node()}:{os.getpid()}".encode())
            for tp in lost:
                tables[tp].drop(tp.partition)
            await asyncio.gather(*(app.changelogs.claim(tp.topic, tp.partition, mark) for tp in lost))
            await self._read(reader, {tp: tables[tp] for tp in lost}, app.settings.stall_timeout_ms / 1000)
            self._whole.update(lost)
        finally:
            await _stopped(reader)

    async def _read(
        self, reader: AIOKafkaConsumer, tables: dict[TP, ChangelogTable[Any]], stall_timeout_s: float
    ) -> None:
        parts = {TopicPartition(*tp): table.partition(tp.partition) for tp, table in tables.items()}
        await self._read_back(reader, parts, stall_timeout_s)
        foreign = {tp: part for tp, part in parts.items() if not part.is_proven}
        if foreign:
            self.log.warning("stores that do not go with their changelogs are made anew: %s", sorted(foreign))
            for part in foreign.values():
                part.forget()
            await self._read_back(reader, foreign, stall_timeout_s)

    async def _read_back(
        self, reader: AIOKafkaConsumer, parts: dict[TopicPartition, Partition[Any]], stall_timeout_s: float
    ) -> None:
        if not parts:
            return
        reader.assign(list(parts))
        begins, ends = await reader.beginning_offsets(list(parts)), await reader.end_offsets(list(parts))
        for tp, part in parts.items():
            if part.reads_from >= ends[tp]:
                self.log.warning("a store that is ahead of its changelog is made anew: %s", tp)
                part.forget()
            reader.seek(tp, max(begins[tp], part.reads_from))
        reading = _Reading(ends, stall_timeout_s)
        while reading.open:
            batches = await reader.getmany(*reading.open, timeout_ms=POLL_MS)
            for tp, records in batches.items():
                parts[tp].restore_all(records)
                reading.records += len(records)
                # Heartbeats and health checks must not wait behind a long recovery.
                await asyncio.sleep(0)
            # The position, not the last record: what was compacted away and transactions' ends leave holes.
            reading.advance({tp: await reader.position(tp) for tp in reading.open})
            if reading.is_time_to_tell():
                self.log.info("%s", reading)
        metrics.RECOVERED_RECORDS.inc(reading.records)
        self.log.info("state read back: %s", reading)


class _Reading:
    """How far the reading of several changelogs is."""

    def __init__(self, ends: dict[TopicPartition, int], stall_timeout_s: float) -> None:
        self.open = dict(ends)
        self._stall_timeout_s = stall_timeout_s
        self.records = 0
        self.started_s = monotonic()
        self._positions: dict[TopicPartition, int] = {}
        self._moved_s = self._told_s = self.started_s

    def __str__(self) -> str:
        elapsed_s = monotonic() - self.started_s
        left = sum(end - self._positions.get(tp, 0) for tp, end in self.open.items())
        return (
            f"{self.records:,} changelog records in {elapsed_s:.1f} s ({self.records / max(elapsed_s, 1e-6):,.0f}/s), "
            f"{left:,} offsets left in {len(self.open)} partitions"
        )

    def advance(self, positions: dict[TopicPartition, int]) -> None:
        """Note the positions; raises RecoveryError where none has moved for too long."""
        now_s = monotonic()
        if positions != self._positions:
            self._positions, self._moved_s = positions, now_s
        self.open = {tp: end for tp, end in self.open.items() if positions[tp] < end}
        if self.open and now_s - self._moved_s > self._stall_timeout_s:
            tp, end = min(self.open.items())
            raise RecoveryError(
                f"changelog {tp.topic}/{tp.partition} can't be read past offset {positions[tp]} of {end}: nothing came "
                f"for {self._stall_timeout_s:.0f} s.",
                hint="Look at the partition's leader and disk; the worker tries again when it is started again.",
            )

    def is_time_to_tell(self) -> bool:
        """Whether some seconds have passed since it was last told how far it is."""
        now_s = monotonic()
        if not self.open or now_s - self._told_s < TOLD_EVERY_S:
            return False
        self._told_s = now_s
        return True


async def _stopped(reader: AIOKafkaConsumer) -> None:
    # A task of its own: aiokafka may end its stop() with the CancelledError of one of its own tasks. It would hide the
    # error that ended the recovery, and the worker would wait in silence.
    await asyncio.wait([asyncio.create_task(reader.stop())], timeout=STOP_S)


async def _changed_by_others(writer: FencedWriter, reader: AIOKafkaConsumer, tps: Iterable[TP]) -> set[TP]:
    """The partitions whose changelog does not end where this worker left it: state in memory is out of date."""
    asked = {tp: TopicPartition(tp.topic, tp.partition) for tp in tps}
    before = {tp: writer.end_offset(*tp) for tp in asked}
    ends = await reader.end_offsets(list(asked.values()))
    # Between the two questions this worker may have written.
    return {tp for tp in asked if not 0 <= before[tp] <= ends[asked[tp]] <= writer.end_offset(*tp)}


def _changelog_table(table: CollectionT) -> ChangelogTable[Any]:
    assert isinstance(table, ChangelogTable)
    return table


class ChangelogTables(TableManager):
    """Faust's tables, recovered by `ChangelogRecovery`."""

    @property
    def recovery(self) -> Recovery:
        """The one recovery service of the app."""
        if self._recovery is None:
            self._recovery = ChangelogRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
