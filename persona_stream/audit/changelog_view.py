"""A changelog as it was at any position since it was read: what a process that goes on is compared with.

A worker tells the source offset up to which it has folded, a server the changelog offset before which it has applied
all; the view follows the changelog to there, and knows what each key had at that moment.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from msgspec import Struct

from models.topic_reader import OnProgress, ignore_progress, topic_consumer
from persona_stream.holdings.digests import Stand
from persona_stream.stream.partition import OWNER_KEY, PROGRESS_KEY, decode_progress
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import PersonaError

POLL_MS = 200
FOLLOW_S = 30.0
"""A process that has come further than its changelog comes within this time is not a worker of it."""


class Span(Struct, frozen=True):
    """Positions of a changelog between which a process may stand."""

    first: int
    until: int


class FollowedPartition:
    """One partition: the newest values, and what those that changed since had before."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.position = 0
        """The offset of the next record."""
        self.is_whole = False
        """Whether all that was there at first is read: from then on what changes is kept."""
        self.remembered_from = 0
        """What values were before this position is not known."""
        self._changes: deque[tuple[int, bytes]] = deque()
        """(offset, key) of what changed."""
        self._before: dict[bytes, deque[tuple[int, bytes | None]]] = {}
        """Key -> (offset of a change, value before it), oldest first."""
        self._stands: list[tuple[int, int]] = [(-1, 0)]
        """(source offset, position after its progress record), oldest first."""

    def apply(self, record: ConsumerRecord) -> None:
        """Take the next record."""
        key, value = record.key, record.value
        self.position = record.offset + 1
        if key == PROGRESS_KEY:
            if not self.is_whole:
                self._stands.clear()
                self.forget_before(self.position)
            self._stands.append((decode_progress(value).offset, self.position))
            return
        if key == OWNER_KEY:
            return
        self._changes.append((record.offset, key))
        self._before.setdefault(key, deque()).append((record.offset, self.values.get(key)))
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value

    def forget_before(self, position: int) -> None:
        """Nothing before a position is going to be asked for."""
        self.remembered_from = max(self.remembered_from, position)
        while self._changes and self._changes[0][0] < position:
            _, key = self._changes.popleft()
            before = self._before[key]
            before.popleft()
            if not before:
                del self._before[key]

    def __iter__(self) -> Iterator[bytes]:
        """Every key that there is, or was at a position that is not forgotten."""
        yield from self.values
        yield from [key for key in self._before if key not in self.values]

    def knows(self, key: bytes) -> bool:
        """Whether there is a key, or was at a position that is not forgotten."""
        return key in self.values or key in self._before

    def value_at(self, key: bytes, position: int) -> bytes | None:
        """What a key had before the record at `position`."""
        for offset, before in self._before.get(key, ()):
            if offset >= position:
                return before
        return self.values.get(key)

    def values_in(self, key: bytes, span: Span) -> list[bytes | None]:
        """Every value that a key had in a span."""
        found = [self.value_at(key, span.first)]
        for offset, _ in self._before.get(key, ()):
            if span.first <= offset < span.until:
                found.append(self.value_at(key, offset + 1))
        return found

    def changed_in(self, span: Span) -> list[bytes]:
        """The keys that changed in a span."""
        return [key for offset, key in self._changes if span.first <= offset < span.until]

    def span_of_source(self, offset: int) -> Span | None:
        """Where the changelog holds all up to a source offset, and changes of what follows at most.

        None where it never stood there, or has not come so far yet.
        """
        at_it = [position for stood, position in self._stands if stood == offset]
        if not at_it:
            return None
        later = (position for stood, position in self._stands if stood > offset)
        return Span(at_it[0], next(later, self.position))

    def has_passed(self, offset: int) -> bool:
        """Whether it stands at a source offset or behind it."""
        return any(stood >= offset for stood, _ in self._stands)


class ChangelogView:
    """A changelog that is read, and then followed."""

    def __init__(self, topic: str, consumer: AIOKafkaConsumer) -> None:
        self.topic = topic
        self._consumer = consumer
        self.partitions = {tp.partition: FollowedPartition() for tp in consumer.assignment()}

    async def read(self, on_progress: OnProgress = ignore_progress) -> None:
        """Read what is there. Raises PersonaError where the broker gives nothing for half a minute."""
        tps = list(self._consumer.assignment())
        await self._consumer.seek_to_beginning(*tps)
        ends: Mapping[TopicPartition, int] = await self._consumer.end_offsets(tps)
        total = sum(ends.values())
        while any(self.partitions[tp.partition].position < end for tp, end in ends.items()):
            await self.follow(partial(self._is_past, self._position()))
            on_progress(min(total, self._position()), total)
        for part in self.partitions.values():
            part.is_whole = True

    async def follow(self, reached: Callable[[], bool]) -> None:
        """Read on until `reached()`. Raises PersonaError where that does not come about."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + FOLLOW_S
        while not reached():
            if loop.time() > deadline_s:
                raise PersonaError(f"nothing that was waited for came in {self.topic} for {FOLLOW_S:.0f} s.")
            await self._poll()

    async def catch_up(self) -> None:
        """Read on to where the changelog ends by now."""
        ends: Mapping[TopicPartition, int] = await self._consumer.end_offsets(list(self._consumer.assignment()))
        await self.follow(lambda: all(self.partitions[tp.partition].position >= end for tp, end in ends.items()))

    async def spans(self, stand: Stand, *, in_source: bool) -> dict[int, Span] | None:
        """Where a process stands, by partition; follows the changelog to there.

        None where the changelog never stood there, or what it was then is not known any more: the process is behind.
        """
        held = {self.partitions[number]: offset for number, offset in stand.items() if number in self.partitions}
        if in_source:
            await self.follow(lambda: all(part.has_passed(offset) for part, offset in held.items()))
            found: dict[int, Span | None] = {
                number: self.partitions[number].span_of_source(offset) for number, offset in stand.items()
            }
        else:
            await self.follow(lambda: all(part.position >= offset for part, offset in held.items()))
            found = {number: Span(offset, offset) for number, offset in stand.items()}
        known = {
            number: span
            for number, span in found.items()
            if span is not None and span.first >= self.partitions[number].remembered_from
        }
        return known if len(known) == len(found) else None

    def _is_past(self, position: int) -> bool:
        return self._position() > position

    def _position(self) -> int:
        return sum(part.position for part in self.partitions.values())

    async def _poll(self) -> None:
        for tp, records in (await self._consumer.getmany(timeout_ms=POLL_MS)).items():
            part = self.partitions[tp.partition]
            for record in records:
                part.apply(record)
        for tp in self._consumer.assignment():
            # What was compacted away leaves holes.
            part = self.partitions[tp.partition]
            part.position = max(part.position, await self._consumer.position(tp))


@asynccontextmanager
async def changelog_view(settings: Settings, topic: str) -> AsyncIterator[ChangelogView]:
    """A view that can be read. Raises as `models.topic_reader.topic_consumer` does."""
    async with topic_consumer(settings, topic) as consumer:
        yield ChangelogView(topic, consumer)
