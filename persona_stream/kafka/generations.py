"""Which generation of each table is live: a small log that says every change of it, the last one counts.

A generation is one fold of the source topics into tables, with changelogs of its own. `rebuild` makes new ones; workers
and servers follow this log. See docs/adr/0009-generations.md.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct

from persona_stream.kafka.reader import free_consumer
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import GenerationError
from persona_stream.vocabulary.topics import FIRST_GENERATION, TABLES, Topics

POLL_MS = 500
_KEY = b"generations"


class Built(Struct, frozen=True):
    """A generation that a rebuild has written, whole and verified."""

    number: int
    at_ms: int
    tables: list[str]
    """The tables that it has; of a partial rebuild not all."""
    events: int
    """Records of the source topics that it was folded from."""
    keys: int
    differing: int = 0
    """Keys that were not as in the generation that was live."""
    until_ms: int = 0
    """Only what happened before this time is in it: it can be served, and never be live. 0: no such bound."""
    lateness_ms: int | None = None
    """The lateness that it was folded with, where that is not the setting."""


class Change(Struct, frozen=True):
    """One record of the log."""

    at_ms: int
    why: Literal["built", "rebuild", "rollback", "drop"]
    live: dict[str, int]
    """Table -> generation; a table that is not named is in its first."""
    built: Built | None = None
    dropped: int = 0
    """The generation whose topics were deleted, 0 if none was."""


_decode = msgspec.json.Decoder(Change).decode
_encode = msgspec.json.Encoder().encode


class History:
    """All changes so far.

    >>> history = History([Change(1, "rebuild", {"users": 2}), Change(2, "rebuild", {"users": 2, "items": 3})])
    >>> history.live()["items"], history.before()["items"], history.before()["users"]
    (3, 1, 2)
    """

    def __init__(self, changes: Sequence[Change] = ()) -> None:
        self.changes = tuple(changes)

    def live(self) -> dict[str, int]:
        """The live generation of every table."""
        return _whole(self.changes[-1].live if self.changes else {})

    def before(self) -> dict[str, int] | None:
        """What a rollback makes live: what was live before the last switch that was not rolled back; None: nothing."""
        lives: list[dict[str, int]] = [_whole({})]
        for change in self.changes:
            if change.why == "rebuild":
                lives.append(_whole(change.live))
            elif change.why == "rollback":
                lives.pop()
        return lives[-2] if len(lives) > 1 else None

    def built(self) -> dict[int, Built]:
        """Generations that are there, by number."""
        made = [change.built for change in self.changes if change.built is not None]
        return {built.number: built for built in made if built.number not in self.dropped()}

    def dropped(self) -> set[int]:
        """Generations whose topics were deleted."""
        return {change.dropped for change in self.changes if change.dropped}

    def generation(self, number: int) -> Built:
        """A generation that is there. Raises GenerationError."""
        found = self.built().get(number)
        if found is None:
            raise GenerationError(
                f"there is no generation {number}.", hint="`persona-stream rebuild --list` names all."
            )
        return found

    def newest(self) -> int:
        """The highest number ever given."""
        return max((change.built.number for change in self.changes if change.built is not None), default=1)


def _whole(live: Mapping[str, int]) -> dict[str, int]:
    return {table: live.get(table, FIRST_GENERATION) for table in TABLES}


class GenerationLog:
    """Reads the log, and goes on reading: `history` is all of it once `start` returns."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tp = TopicPartition(Topics(settings.namespace).generations, 0)
        self._consumer: AIOKafkaConsumer | None = None
        self.history = History()

    async def start(self) -> None:
        """Connect and read to the end. Raises aiokafka's errors where no broker answers."""
        consumer = free_consumer(self._settings)
        self._consumer = consumer
        try:
            await consumer.start()
            consumer.assign([self._tp])
            await consumer.seek_to_beginning(self._tp)
            end = (await consumer.end_offsets([self._tp]))[self._tp]
            while await consumer.position(self._tp) < end:
                await self._read(consumer)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Disconnect."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def changed(self) -> History:
        """Wait until something is added; returns all."""
        assert self._consumer is not None, "GenerationLog.start() was not awaited"
        known = self.history
        while self.history is known:
            await self._read(self._consumer)
        return self.history

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
            self.history = History([*self.history.changes, *(_decode(record.value) for record in records)])


async def read_history(settings: Settings) -> History:
    """All changes so far."""
    log = GenerationLog(settings)
    await log.start()
    await log.stop()
    return log.history


async def live_changelog(settings: Settings, table: str) -> str:
    """The changelog of a table's live generation."""
    return Topics(settings.namespace).changelog(table, (await read_history(settings)).live()[table])


async def write_change(writer: BatchWriter, settings: Settings, change: Change) -> None:
    """Add a change; returns when Kafka has it."""
    await writer.write(Topics(settings.namespace).generations, {0: [Record(_KEY, _encode(change))]})
