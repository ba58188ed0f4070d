"""Items as of many decisions: from `internal.item-events` while it has them all, else from `events.v1` once more."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate

from aiokafka import ConsumerRecord
from msgspec import Struct

from agents.items import Items
from models.topic_reader import OnProgress
from persona_stream.explain.cut import Ends
from persona_stream.kafka.writer import Partitioner
from persona_stream.skew.passage import Folded, Wishes, pass_through
from persona_stream.stream.partition import Partition
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import ItemEvent, decode_item_event
from persona_stream.worker.app import AgentSpec
from tables.items import ItemState
from tables.items import codec as item_codec


class ItemsThen:
    """The states of items. `folded`: how many item events it took."""

    def __init__(self, settings: Settings, spec: AgentSpec) -> None:
        self._settings = settings
        self._spec = spec
        self.wishes = Wishes()
        self.folded = 0

    async def read(self, on_progress: OnProgress) -> None:
        """Fold the topic, which has every item event. Raises as `read_topic`."""
        items, stops, ends = Folded(self._spec, self.wishes), self.wishes.stops, self.wishes.ends()
        await pass_through(self._settings, self._spec.source, stops, items.fold, items.look, on_progress, ends=ends)
        self.folded += items.records

    async def reached(
        self, users: Mapping[tuple[int, int], Ends], ends: Mapping[int, int], on_progress: OnProgress
    ) -> "Derived":
        """Read what is left of the topic: which events of each source partition had come by each stop.

        `users`: up to where users were folded, by partition and stop. `ends`: of the topic, as of now; where nothing of
        a source partition is left before a stop, what came next tells how far it was. Raises as `read_topic`.
        """
        came = {partition: _Came() for partition in self.wishes.stops}

        def fold(partition: int, records: list[ConsumerRecord]) -> None:
            for record in records:
                came[partition].note(decode_item_event(record.value or b""))

        def look(partition: int, end: int, keys: Collection[str]) -> None:
            # Before the first item event, none had come, however far users were.
            came[partition].stop(users[partition, end] if end else {})

        stops = self.wishes.stops
        wanted = {partition: end for partition, end in ends.items() if partition in stops}
        await pass_through(self._settings, self._spec.source, stops, fold, look, on_progress, ends=wanted)
        return Derived(self, self._settings.partitions, came)


class _Stop(Struct):
    """What had come of each source partition: all below an offset, and of the event at it some items."""

    highest: dict[int, int]
    at_highest: dict[int, frozenset[str]]
    users: Ends


class _Came:
    """How one partition of the items grew from stop to stop."""

    def __init__(self) -> None:
        self._highest: dict[int, int] = {}
        self._at_highest: dict[int, set[str]] = {}
        self._first: dict[int, int] = {}
        self._stops: list[_Stop] = []
        self._columns: dict[int, list[int]] = {}

    def note(self, event: ItemEvent) -> None:
        source, offset = event.source_partition, event.source_offset
        self._first[source] = min(offset, self._first.get(source, offset))
        if offset > self._highest.get(source, -1):
            self._highest[source], self._at_highest[source] = offset, set()
        if offset == self._highest[source]:
            self._at_highest[source].add(event.item)

    def stop(self, users: Ends) -> None:
        named = {source: frozenset(items) for source, items in self._at_highest.items()}
        self._stops.append(_Stop(dict(self._highest), named, users))

    def complete(self) -> None:
        """Where nothing before a stop is left of a source partition, all that was folded of it had long come."""
        for stop in self._stops:
            for source, end in stop.users.items():
                stop.highest.setdefault(source, min(end, self._first.get(source, end)) - 1)
        for source in {source for stop in self._stops for source in stop.highest}:
            # Servers are not all equally far: what had come by one stop had come by those behind it.
            self._columns[source] = list(accumulate([stop.highest.get(source, -1) for stop in self._stops], max))

    def stop_of(self, event: ItemEvent) -> int:
        """The first stop by which an item event had come, as its place among them; their number where by none."""
        source, offset = event.source_partition, event.source_offset
        highest = self._columns.get(source, [])
        at = bisect_left(highest, offset)
        while at < len(highest) and highest[at] == offset:
            if event.item in self._stops[at].at_highest.get(source, (event.item,)):
                return at
            at += 1
        return at if highest else len(self._stops)

    def ends(self) -> Iterable[tuple[int, int]]:
        """(source partition, offset after the last event that had come by any stop)."""
        return [(source, 1 + max(highest)) for source, highest in self._columns.items()]


class Derived:
    """Items folded from item events made again. They come by source partition, not in the order of then; but an item's
    state does not depend on that order, so all that had come by an item's first stop is folded as it comes, and only
    the rest is kept until the stops after it."""

    def __init__(self, items: ItemsThen, partitions: int, came: dict[int, _Came]) -> None:
        self._items = items
        self._partition_of = Partitioner(partitions)
        self._came = came
        self._held: dict[int, Partition[ItemState]] = {}
        self._waiting: dict[int, list[list[ItemEvent]]] = {}
        """Partition of the items -> by stop, what had come only by then."""
        self._stops = {partition: sorted(places) for partition, places in items.wishes.stops.items()}
        self._wanted = {partition: items.wishes.keys(partition) for partition in items.wishes.stops}
        self._first_stop: dict[str, int] = {}
        for partition, places in items.wishes.stops.items():
            came[partition].complete()
            self._held[partition] = Partition(item_codec)
            self._waiting[partition] = [[] for _ in places]
            for at, end in reversed(list(enumerate(self._stops[partition]))):
                self._first_stop |= dict.fromkeys(places[end], at)

    def ends(self) -> dict[int, int]:
        """By source partition, the offset after the last event that matters."""
        found: dict[int, int] = {}
        for came in self._came.values():
            for source, end in came.ends():
                found[source] = max(end, found.get(source, 0))
        return found

    def take(self, source: int, events: list[ItemEvent]) -> None:
        """Item events of a source partition, in its order."""
        del source  # Each event tells where it is from.
        now: dict[int, list[ItemEvent]] = {}
        for event in events:
            key = event.item.encode()
            partition = self._partition_of(key)
            if key not in self._wanted.get(partition, ()):
                continue
            stop = self._came[partition].stop_of(event)
            if stop <= self._first_stop[event.item]:
                now.setdefault(partition, []).append(event)
            elif stop < len(self._stops[partition]):
                self._waiting[partition][stop].append(event)
        for partition, mine in now.items():
            self._fold(partition, mine)

    def finish(self) -> None:
        """Go on from stop to stop, once all events were taken."""
        wishes = self._items.wishes
        for partition, stops in self._stops.items():
            held = self._held[partition]
            for end, waiting in zip(stops, self._waiting[partition], strict=True):
                self._fold(partition, waiting)
                waiting.clear()
                for item in wishes.stops[partition][end]:
                    wishes.fulfil(item, end, held.encoded(item))

    def _fold(self, partition: int, events: list[ItemEvent]) -> None:
        if events:
            held = self._held[partition]
            Items.fold(events, held)
            held.changed.clear()
            self._items.folded += len(events)
