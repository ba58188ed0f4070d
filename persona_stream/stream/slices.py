"""A slice of a partition, and the offsets that may be committed once slices were applied."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Protocol

from msgspec import Struct


class KafkaRecord(Protocol):
    """What is used of aiokafka's ConsumerRecord."""

    @property
    def offset(self) -> int: ...  # noqa: D102  # Kafka's own words
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...  # noqa: D102


class LogRecord(Struct, gc=False):
    """A record that was made here rather than fetched, for an agent to take."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class Slice:
    """Consecutive records of one partition, in offset order; never empty.

    Whoever processes a slice sets `applied` once its effects are in Kafka. Until then its offsets, and all after
    them, are not committed: a crash in between means that the slice is delivered again.
    """

    __slots__ = ("applied", "effects", "partition", "records", "topic")

    def __init__(self, topic: str, partition: int, records: Sequence[KafkaRecord]) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records
        self.applied = False
        self.effects: asyncio.Future[None] | None = None
        """Done when the effects of a slice that was folded are in Kafka, or could not be written."""

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[KafkaRecord]:
        return iter(self.records)

    @property
    def first_offset(self) -> int:
        """Offset of the first record."""
        return self.records[0].offset

    @property
    def last_offset(self) -> int:
        """Offset of the last record."""
        return self.records[-1].offset

    def starting_at(self, offset: int) -> "Slice | None":
        """What of the slice is at or after `offset`; None if nothing is."""
        if self.first_offset >= offset:
            return self
        rest = [record for record in self.records if record.offset >= offset]
        return Slice(self.topic, self.partition, rest) if rest else None


class CommitTracker:
    """Which offset of one partition may be committed: that after the last slice of the applied ones in front.

    >>> from types import SimpleNamespace as R
    >>> tracker = CommitTracker()
    >>> first, second = (Slice("t", 0, [R(offset=o)]) for o in (4, 9))
    >>> tracker.delivered(first); tracker.delivered(second)
    >>> second.applied = True
    >>> tracker.committable() is None
    True
    >>> first.applied = True
    >>> tracker.committable()
    10
    """

    def __init__(self) -> None:
        self._in_flight: deque[Slice] = deque()
        self._committable: int | None = None
        self._moved_s = 0.0

    def delivered(self, part: Slice) -> None:
        """Remember a slice that was handed to an agent."""
        if not self._in_flight:
            self._moved_s = monotonic()
        self._in_flight.append(part)

    def stalled_s(self) -> float:
        """For how long there have been slices in flight without one of them being applied."""
        if not self._in_flight or self._in_flight[0].applied:
            return 0.0
        return monotonic() - self._moved_s

    def unfinished(self) -> Iterator[asyncio.Future[None]]:
        """The effects of slices that were folded but are not in Kafka yet."""
        return (part.effects for part in self._in_flight if part.effects is not None and not part.effects.done())

    def committable(self) -> int | None:
        """The next offset to read after a crash, None before anything was applied.

        Asked again, it tells the same: a commit that failed, or was cut off, is made good by the next.
        """
        while self._in_flight and self._in_flight[0].applied:
            self._committable = self._in_flight.popleft().last_offset + 1
            self._moved_s = monotonic()
        return self._committable
