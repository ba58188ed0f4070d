"""The changelogs as the mirror reads them: all partitions of the tables it shows, by the batch, without a group."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from msgspec import Struct

from persona_stream.kafka.generations import History
from persona_stream.kafka.reader import free_consumer
from persona_stream.mirror.layout import PARTS
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import FIRST_GENERATION, Topics

FETCH_BYTES = 1024 * 1024
IDLE_MS = 500

Fetched = dict[TopicPartition, list[ConsumerRecord]]
Offsets = dict[TopicPartition, int]


class Live(Struct, frozen=True):
    """Which changelog is a table's: its live generation, and how often that had changed (see `Version.turn`)."""

    generation: int = FIRST_GENERATION
    turn: int = 0


def live_tables(history: History) -> dict[str, Live]:
    """What is live by now of each table that the mirror shows.

    >>> from persona_stream.kafka.generations import Change
    >>> history = History([Change(1, "rebuild", {"users": 2}), Change(2, "rollback", {"users": 1})])
    >>> live_tables(history)["users"], live_tables(history)["items"]
    (Live(generation=1, turn=2), Live(generation=1, turn=0))
    """
    live = {part.table: Live() for part in PARTS}
    for change in history.changes:
        generations = History([change]).live()
        for table, before in live.items():
            if generations[table] != before.generation:
                live[table] = Live(generations[table], before.turn + 1)
    return live


class ChangelogReader:
    """One connection to Kafka; `positions` says how far it has read."""

    def __init__(self, settings: Settings, live: Mapping[str, Live]) -> None:
        topics = Topics(settings.namespace)
        self._settings = settings
        self._live = live
        self.table_of: dict[TopicPartition, str] = {}
        for part in PARTS:
            topic = topics.changelog(part.table, live[part.table].generation)
            self.table_of |= {TopicPartition(topic, p): part.table for p in range(settings.partitions)}
        self.positions: Offsets = {}
        self._reader, self._poller = self._consumer(), self._consumer()

    async def __aenter__(self) -> Self:
        """Connect. Raises aiokafka's errors where no broker answers."""
        try:
            await self._reader.start()
            # One reads, one asks for ends: on one connection a question waits until the fetch before it is answered.
            await self._poller.start()
        except BaseException:
            await self.stop()
            raise
        self._reader.assign(list(self.table_of))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Disconnect."""
        # Both, whatever the first one does: aiokafka may end its stop() with the CancelledError of a task of its own.
        await asyncio.gather(self._reader.stop(), self._poller.stop(), return_exceptions=True)

    async def bounds(self) -> tuple[Offsets, Offsets]:
        """The first offset of each partition, and the one after the last."""
        return await self._poller.beginning_offsets(list(self.table_of)), await self.ends()

    async def ends(self) -> Offsets:
        """The offset after the last of each partition."""
        ends: Offsets = await self._poller.end_offsets(list(self.table_of))
        return ends

    def seek(self, positions: Offsets) -> None:
        """Read on from there."""
        self.positions = dict(positions)
        for tp, offset in positions.items():
            self._reader.seek(tp, offset)

    def turn(self, tp: TopicPartition) -> int:
        """How often its table's live generation had changed."""
        return self._live[self.table_of[tp]].turn

    async def fetch(self) -> Fetched:
        """What comes next; nothing where nothing came for a while. Its end is the new position."""
        fetched: Fetched = await self._reader.getmany(timeout_ms=IDLE_MS)
        for tp in self.positions:
            # By position, not by record: a transaction's end takes an offset, too.
            self.positions[tp] = await self._reader.position(tp)
        return fetched

    def _consumer(self) -> AIOKafkaConsumer:
        return free_consumer(
            self._settings,
            # An offset that is not there means another log than the one mirrored so far: that must not pass unseen.
            auto_offset_reset="none",
            max_partition_fetch_bytes=FETCH_BYTES,
        )
