"""Which decisions are looked at: a sample by the hash of their ids, the same at each run over the same log."""

import heapq
from collections.abc import Iterator
from typing import Protocol

import msgspec
from aiokafka import ConsumerRecord
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from models.topic_reader import OnProgress, bounds, read_topic
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Decision, decode_decision
from persona_stream.vocabulary.topics import Topics

LAST = 10_000
"""So many of the newest decisions are sampled from where no time is told: about 80 MB while they are read."""


class Wanted(Struct, frozen=True, kw_only=True):
    """Which decisions."""

    sample: int = 100
    since_ms: int | None = None
    """Those logged at or after this time, by Kafka's stamps; None: the newest `last`."""
    last: int = LAST
    seed: int = 1


class Sample(Struct):
    """What was taken."""

    decisions: list[Decision]
    """In the order in which they were made."""
    found: int
    """How many it was taken from."""
    unreadable: int
    """How many of those found are no decisions: they have no id to be sampled by."""


class _Id(Struct):
    id: str


_decode_id = msgspec.json.Decoder(_Id).decode
Place = tuple[int, int, int]
"""(Kafka's timestamp, partition, offset): the order in which decisions were logged."""


async def take_sample(settings: Settings, wanted: Wanted, on_progress: OnProgress) -> Sample:
    """Read the decisions asked for, and keep the sample. Raises as `read_topic`."""
    topic = Topics(settings.namespace).decisions
    keep: _Keep
    if wanted.since_ms is None:
        starts = {p: max(held.first, held.end - wanted.last) for p, held in (await bounds(settings, topic)).items()}
        keep = _Newest(wanted.last)
    else:
        before = await bounds(settings, topic, at_ms=wanted.since_ms)
        starts = {partition: held.end for partition, held in before.items()}
        keep = _Smallest(wanted.sample)
    unreadable = 0
    async for records in read_topic(settings, topic, starts=starts, on_progress=on_progress):
        for record in records:
            try:
                told = _decode_id(record.value or b"")
            except msgspec.DecodeError:
                unreadable += 1
                continue
            keep.add(xxh3_64_intdigest(f"{wanted.seed}:{told.id}".encode()), record)
    taken = heapq.nsmallest(wanted.sample, keep.kept())
    decisions: list[Decision] = []
    for _, raw in taken:
        try:
            decisions.append(decode_decision(raw))
        except msgspec.DecodeError:
            unreadable += 1
    decisions.sort(key=lambda one: (one.ts_ms, one.id))
    return Sample(decisions, keep.found + unreadable, unreadable)


class _Keep(Protocol):
    @property
    def found(self) -> int: ...

    def add(self, digest: int, record: ConsumerRecord) -> None: ...

    def kept(self) -> Iterator[tuple[int, bytes]]: ...


class _Smallest:
    """The records of the smallest digests; one that was written twice counts once."""

    def __init__(self, size: int) -> None:
        self.found = 0
        self._size = size
        self._raw: dict[int, bytes] = {}
        self._largest: list[int] = []
        """A heap of the digests kept, negative."""

    def add(self, digest: int, record: ConsumerRecord) -> None:
        self.found += 1
        if digest in self._raw:
            return
        if len(self._raw) >= self._size:
            if -self._largest[0] < digest:
                return
            del self._raw[-heapq.heappop(self._largest)]
        heapq.heappush(self._largest, -digest)
        self._raw[digest] = record.value

    def kept(self) -> Iterator[tuple[int, bytes]]:
        return iter(self._raw.items())


class _Newest:
    """The records logged last, whichever partition they are in."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[tuple[Place, int, bytes]] = []

    @property
    def found(self) -> int:
        return len(self._kept)

    def add(self, digest: int, record: ConsumerRecord) -> None:
        kept = ((record.timestamp, record.partition, record.offset), digest, record.value)
        if len(self._kept) < self._size:
            heapq.heappush(self._kept, kept)
        else:
            heapq.heappushpop(self._kept, kept)

    def kept(self) -> Iterator[tuple[int, bytes]]:
        return iter({digest: raw for _, digest, raw in self._kept}.items())
