"""The mirror: reads the changelogs and keeps Redis equal to them, whatever Kafka and Redis do.

Values go out first, marks after them, so that a mirror that ends anywhere goes on from its marks and repeats what
changes nothing. Where Redis has no marks (it is new, was flushed, or failed over to an empty one) everything is written
again, and then what no table has is removed. Any number of mirrors may run at once.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from msgspec import Struct

from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.generations import GenerationLog, read_history
from persona_stream.kafka.writer import Partitioner
from persona_stream.mirror import mirror_metrics
from persona_stream.mirror.hashes import Changes, HashWriter
from persona_stream.mirror.layout import PARTS, Version
from persona_stream.mirror.link import RedisLink
from persona_stream.mirror.marks import Marks, MarksLostError, mark_name
from persona_stream.mirror.reader import ChangelogReader, Fetched, Offsets, live_tables
from persona_stream.mirror.sweep import Alive, Sweep
from persona_stream.stream.partition import SYSTEM_KEYS
from persona_stream.vocabulary.config import Settings

LAG_POLL_S = 1.0
PACE_S = 0.02
"""Fetches begin at least this far apart: under a trickle, a pipeline for each record would cost more than it brings."""
FIRST_RETRY_S = 0.25
LONGEST_RETRY_S = 5.0

OnProgress = Callable[[int, int], None]
"""(changelog offsets read, to read)"""

_log = structlog.get_logger(__name__)


class Rewritten(Struct, frozen=True):
    """What a whole pass did: keys that tables have, and keys of Redis that none has."""

    keys: int
    removed: int


class SwitchedError(Exception):
    """What is mirrored is live no longer."""


class Mirror:
    """Keeps one Redis equal to the tables of one namespace."""

    def __init__(self, settings: Settings, link: RedisLink) -> None:
        self._settings = settings
        self._link = link
        self._hashes = HashWriter(settings, link)
        self._marks = Marks(settings.namespace, link)
        self._sweep = Sweep(self._hashes, link, Partitioner(settings.partitions), self._went_on)
        self.kafka_error = "not connected yet"
        """Why changelogs can't be read just now; empty while they can."""
        self.has_caught_up = False
        """Everything that was in the changelogs when it began has been in Redis once."""
        self.lag: dict[str, int] = {}
        """Changelog records that are not in Redis, by table, as of the last poll."""
        self._mirrored: Offsets = {}
        self._goal: Offsets = {}
        """What was in the changelogs when reading began."""
        self._went_on_s = time.monotonic()
        self._switched: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Mirror until cancelled. Raises ConfigError where topics don't fit."""
        retry_s = FIRST_RETRY_S
        while True:
            generations = GenerationLog(self._settings)
            try:
                await ensure_topics(self._settings)
                await generations.start()
                async with ChangelogReader(self._settings, live_tables(generations.history)) as reader:
                    self.kafka_error, retry_s = "", FIRST_RETRY_S
                    await self._follow(reader, generations)
            except (MarksLostError, SwitchedError) as error:
                _log.warning("writing everything again", reason=str(error))
            except OffsetOutOfRangeError as error:
                _log.warning("a changelog is not as it was; comparing again", reason=str(error))
            except (KafkaError, OSError) as error:
                # Said once, not at every try of an outage that may last for hours.
                if repr(error) != self.kafka_error:
                    _log.warning("changelogs can't be read; trying again until they can", error=repr(error))
                self.kafka_error = repr(error)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
            finally:
                await generations.stop()

    async def rebuild(self, on_progress: OnProgress) -> Rewritten:
        """Write everything again and remove what no table has. May be done while mirrors run."""
        await ensure_topics(self._settings)
        live = live_tables(await read_history(self._settings))
        async with ChangelogReader(self._settings, live) as reader:
            await self._marks.load()
            return await self._whole_pass(reader, on_progress)

    def stalled_s(self) -> float:
        """For how long there has been something to do, and nothing in the way, and no progress."""
        if self.kafka_error or self._link.error:
            self._went_on()
        return time.monotonic() - self._went_on_s

    async def _follow(self, reader: ChangelogReader, generations: GenerationLog) -> None:
        polling = asyncio.create_task(self._poll_lag(reader))
        self._switched = asyncio.create_task(until_switched(generations))
        try:
            if not await self._resume(reader):
                _log.info("writing everything")
                rewritten = await self._whole_pass(reader)
                _log.info("everything is written", keys=rewritten.keys, removed=rewritten.removed)
            while True:
                await self._step(reader)
        finally:
            for task in (polling, self._switched):
                task.cancel()
            await asyncio.gather(polling, self._switched, return_exceptions=True)

    async def _resume(self, reader: ChangelogReader) -> bool:
        """Go on from the marks; False where there are none that this log goes on from."""
        marks = await self._marks.load()
        begins, ends = await reader.bounds()
        found = {tp: marks.get(mark_name(table, tp)) for tp, table in reader.table_of.items()}
        positions = {tp: mark.offset for tp, mark in found.items() if mark and mark.turn == reader.turn(tp)}
        replaced = [tp for tp, offset in positions.items() if offset > ends[tp]]
        if replaced:
            # A higher offset of the log before would win over every value of this one.
            tp = min(replaced)
            _log.warning(
                "a changelog is shorter than what was mirrored of it, so it is another log: removing all keys first",
                topic=tp.topic, partition=tp.partition, end=ends[tp], mirrored=positions[tp],
            )  # fmt: skip
            await self._sweep.everything()
            await self._marks.forget()
            return False
        if len(positions) < len(found) or any(offset < begins[tp] for tp, offset in positions.items()):
            return False
        reader.seek(positions)
        self._mirrored, self._goal = dict(positions), ends
        return True

    async def _whole_pass(self, reader: ChangelogReader, on_progress: OnProgress | None = None) -> Rewritten:
        """Read from the beginning, write all, remove what no table has, and only then note how far it is."""
        mirror_metrics.PASSES.inc()
        begins, ends = await reader.bounds()
        reader.seek(begins)
        alive = Alive()
        total = sum(ends.values()) - sum(begins.values())
        while any(reader.positions[tp] < end for tp, end in ends.items()):
            await self._write(reader, await self._fetch(reader), alive)
            # Notices a flush now, not after hours of a large pass.
            await self._marks.advance({})
            self._note_mirrored(reader)
            if on_progress is not None:
                left = sum(max(0, end - reader.positions[tp]) for tp, end in ends.items())
                on_progress(total - left, total)
        # The first record of a partition is its owner's: in an empty one no value has, or will have, offset 0.
        read = {
            (table, tp.partition): Version(reader.turn(tp), max(0, ends[tp] - 1))
            for tp, table in reader.table_of.items()
        }
        removed = await self._sweep.orphans(alive, read)
        await self._advance(reader, reader.table_of)
        self._goal = ends
        return Rewritten(len(alive), removed)

    async def _step(self, reader: ChangelogReader) -> None:
        began_s = time.monotonic()
        await self._write(reader, await self._fetch(reader))
        # Also where nothing came: that is how a flush, or a Redis that is gone, is noticed.
        await self._advance(reader, [tp for tp, at in reader.positions.items() if self._mirrored[tp] != at])
        self.has_caught_up = self.has_caught_up or all(self._mirrored[tp] >= end for tp, end in self._goal.items())
        await asyncio.sleep(max(0.0, began_s + PACE_S - time.monotonic()))

    async def _fetch(self, reader: ChangelogReader) -> Fetched:
        if self._switched is not None and self._switched.done():
            self._switched.result()
            raise SwitchedError("another generation of a table is live")
        return await reader.fetch()

    async def _write(self, reader: ChangelogReader, fetched: Fetched, alive: Alive | None = None) -> None:
        for tp, records in fetched.items():
            table, changes = reader.table_of[tp], newest_values(records)
            await self._hashes.write(table, reader.turn(tp), changes)
            if alive is not None:
                alive.note(table, changes)
            mirror_metrics.APPLIED_TIMESTAMP.labels(table).set(records[-1].timestamp / 1000)

    async def _advance(self, reader: ChangelogReader, tps: Iterable[TopicPartition]) -> None:
        await self._marks.advance(
            {mark_name(reader.table_of[tp], tp): Version(reader.turn(tp), reader.positions[tp]) for tp in tps}
        )
        self._note_mirrored(reader)

    def _note_mirrored(self, reader: ChangelogReader) -> None:
        if reader.positions != self._mirrored:
            self._mirrored = dict(reader.positions)
            self._went_on()

    def _went_on(self) -> None:
        self._went_on_s = time.monotonic()

    async def _poll_lag(self, reader: ChangelogReader) -> None:
        while True:
            with suppress(KafkaError, OSError):
                ends = await reader.ends()
                lag = {part.table: 0 for part in PARTS}
                for tp, end in ends.items():
                    lag[reader.table_of[tp]] += max(0, end - self._mirrored.get(tp, 0))
                self.lag = lag
                if not any(lag.values()):
                    self._went_on()
                for table, records in lag.items():
                    mirror_metrics.LAG.labels(table).set(records)
            await asyncio.sleep(LAG_POLL_S)


async def until_switched(generations: GenerationLog) -> None:
    """Wait until another generation of a table that the mirror shows is live."""
    live = live_tables(generations.history)
    while live_tables(await generations.changed()) == live:
        pass


def newest_values(records: Iterable[ConsumerRecord]) -> Changes:
    """Of one partition's records, each key's newest value."""
    return {record.key: (record.value, record.offset) for record in records if record.key not in SYSTEM_KEYS}
