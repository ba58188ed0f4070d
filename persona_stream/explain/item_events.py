"""Some items as they were: from `internal.item-events` while it has them all, else from `events.v1` once more."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import Any

from msgspec import Struct

from models.topic_reader import Bounds, OnProgress, bounds, read_topic
from persona_stream.explain.cut import Cut, Ends
from persona_stream.kafka.writer import Partitioner, Record
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import KafkaRecord, LogRecord, Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import decode_item_event
from persona_stream.worker.app import AgentSpec, agent_specs
from tables.counters import TOTALS, stack_longs
from tables.items import ItemState

Show = Callable[[str], AbstractContextManager[OnProgress]]


class ItemsThen(Struct):
    """The items' states, and how they came about."""

    states: dict[str, ItemState] = {}
    folded: int = 0
    notes: list[str] = []


async def item_states(settings: Settings, items: Collection[str], cut: Cut, show: Show) -> ItemsThen:
    """The states of items as of a cut; those that nothing had happened to are left out."""
    specs = {spec.table: spec for spec in agent_specs(settings, with_examples=False)}
    partition_of = Partitioner(settings.partitions)
    keys: dict[int, set[bytes]] = {}
    for item in items:
        keys.setdefault(partition_of(item.encode()), set()).add(item.encode())
    source = specs["items"].source
    held = {partition: bound for partition, bound in (await bounds(settings, source)).items() if partition in keys}
    fold = _Fold(settings, specs, keys, cut, show)
    if any(bound.first for bound in held.values()):
        await fold.derive(held)
    else:
        await fold.read()
    if cut.counted:
        await fold.read_on(held)
    return fold.result()


class _Reached:
    """Which events of each source partition one partition of the items held, as its topic tells."""

    def __init__(self) -> None:
        self.highest: dict[int, int] = {}
        """Source partition -> highest offset there whose item event is before the cut."""
        self._at_highest: dict[int, set[str]] = {}
        """The items of that event whose item events are."""
        self._next: dict[int, int] = {}

    def note(self, raw: bytes | None, *, is_before: bool) -> None:
        event = decode_item_event(raw or b"")
        partition, offset = event.source_partition, event.source_offset
        if not is_before:
            self._next[partition] = min(offset, self._next.get(partition, offset))
            return
        if offset > self.highest.get(partition, -1):
            self.highest[partition] = offset
            self._at_highest[partition] = set()
        if offset == self.highest[partition]:
            self._at_highest[partition].add(event.item)

    def complete(self, users: Ends) -> None:
        """Where nothing before the cut is left of a source partition: all that was folded of it had long come."""
        for partition, end in users.items():
            self.highest.setdefault(partition, min(end, self._next.get(partition, end)) - 1)

    def has(self, partition: int, offset: int, item: str) -> bool:
        """Whether an item event is in; of an event with several items, some may be and others not yet."""
        highest = self.highest.get(partition, -1)
        return offset < highest or (offset == highest and item in self._at_highest.get(partition, (item,)))


class _Fold:
    def __init__(
        self, settings: Settings, specs: Mapping[str, AgentSpec], keys: Mapping[int, set[bytes]], cut: Cut, show: Show
    ) -> None:
        self._settings = settings
        self._specs = specs
        self._keys = keys
        self._cut = cut
        self._show = show
        self._held: dict[int, Partition[Any]] = {partition: Partition(specs["items"].codec) for partition in keys}
        self._folded = 0
        self._notes: list[str] = []

    def result(self) -> ItemsThen:
        """All that was folded."""
        states = {item: held.get(item) for held in self._held.values() for item in held}
        return ItemsThen(
            {item: state for item, state in states.items() if state is not None}, self._folded, self._notes
        )

    async def read(self) -> None:
        """Fold the topic, which has every item event."""
        spec = self._specs["items"]
        ends = {partition: self._cut.items.get(partition, 0) for partition in self._keys}
        with self._show(f"folding {spec.source}") as on_progress:
            async for records in read_topic(self._settings, spec.source, ends=ends, on_progress=on_progress):
                partition = records[0].partition
                self._apply(partition, [record for record in records if record.key in self._keys[partition]])

    async def read_on(self, bounds_now: Mapping[int, Bounds]) -> None:
        """Fold what is behind the cut, of items of which the server had counted more."""
        spec = self._specs["items"]
        starts = {partition: self._cut.items.get(partition, 0) for partition in self._keys}
        ends = {
            partition: bounds_now[partition].end
            for partition, keys in self._keys.items()
            if any(self._lacks(partition, key) for key in keys)
        }
        async with aclosing(read_topic(self._settings, spec.source, starts=starts, ends=ends)) as reading:
            async for records in reading:
                partition = records[0].partition
                keys = {key for key in self._keys[partition] if self._lacks(partition, key)}
                self._apply(partition, [record for record in records if record.key in keys])
                if not any(self._lacks(p, key) for p in ends for key in self._keys[p]):
                    return

    def _lacks(self, partition: int, key: bytes | None) -> bool:
        """Whether the server had counted more events of an item; not so where it did not tell."""
        item = (key or b"").decode()
        wanted = self._cut.counted.get(item)
        if wanted is None:
            return False
        state: ItemState | None = self._held[partition].get(item)
        return wanted > (int(stack_longs([state.longs])[0, TOTALS:].sum()) if state is not None else 0)

    async def derive(self, bounds_now: Mapping[int, Bounds]) -> None:
        """Make the item events again from the users' events, up to what the topic says had reached the items."""
        spec, users = self._specs["items"], self._specs["users"]
        reached = await self._reached(bounds_now)
        split = Partitioner(self._settings.partitions).split
        sources = {source for made in reached.values() for source in made.highest}
        ends = {source: 1 + max(made.highest.get(source, -1) for made in reached.values()) for source in sources}
        topic = spec.source
        with self._show(f"folding {users.source} again, since {topic} keeps a few days only") as on_progress:
            people: dict[int, Partition[Any]] = {}
            async for records in read_topic(self._settings, users.source, ends=ends, on_progress=on_progress):
                source = records[0].partition
                state = people.setdefault(source, Partition(users.codec))
                out = users.fold.process(Slice(users.source, source, records), state)
                state.changed.clear()
                self._folded += len(records)
                for partition, made in split(out.by_topic.get(topic, [])).items():
                    if partition in reached:
                        self._apply(partition, self._wanted(made, partition, reached[partition]))

    async def _reached(self, bounds_now: Mapping[int, Bounds]) -> dict[int, _Reached]:
        reached = {partition: _Reached() for partition in self._keys}
        source = self._specs["items"].source
        with self._show(f"reading what is left of {source}") as on_progress:
            ends = {partition: bound.end for partition, bound in bounds_now.items()}
            async for records in read_topic(self._settings, source, ends=ends, on_progress=on_progress):
                partition = records[0].partition
                end = self._cut.items.get(partition, 0)
                for record in records:
                    reached[partition].note(record.value, is_before=record.offset < end)
        for partition, made in reached.items():
            # Before the first item event none had come, however far users were.
            if self._cut.items.get(partition):
                made.complete(self._cut.users)
        gone = [p for p, bound in bounds_now.items() if bound.first > self._cut.items.get(p, 0) > 0]
        if gone:
            self._notes.append(
                f"the item events of then are gone from partitions {', '.join(map(str, gone))}: what users had done by"
                " then stands for what had reached the items, which may be a few events less"
            )
        return reached

    def _wanted(self, made: list[Record], partition: int, reached: _Reached) -> list[LogRecord]:
        first = self._held[partition].progress.offset + 1
        wanted: list[LogRecord] = []
        for record in made:
            if record.key in self._keys[partition]:
                event = decode_item_event(record.value or b"")
                if reached.has(event.source_partition, event.source_offset, event.item):
                    wanted.append(LogRecord(first + len(wanted), 0, record.key, record.value))
        return wanted

    def _apply(self, partition: int, records: Sequence[KafkaRecord]) -> None:
        if not self._cut.counted:
            self._process(partition, records)
            return
        for record in records:
            if self._lacks(partition, record.key) or (record.key or b"").decode() not in self._cut.counted:
                self._process(partition, [record])

    def _process(self, partition: int, records: Sequence[KafkaRecord]) -> None:
        if records:
            spec, held = self._specs["items"], self._held[partition]
            spec.fold.process(Slice(spec.source, partition, records), held)
            held.changed.clear()
            self._folded += len(records)
