"""The catalogue and the profiles as of many decisions, read once each.

Features compare with all of the catalogue: its mean price, how rare a word is in it. So the whole of it is held, once,
and moved from one decision's cut to the next one's, forwards or backwards, by the changes in between.
"""

from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import ConsumerRecord
from msgspec import Struct

from models.topic_reader import OnProgress
from persona_stream.explain.cut import Ends
from persona_stream.skew.passage import Folded, Stops, Wishes, pass_through
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.worker.app import AgentSpec
from tables.catalogue import CatalogueEntry
from tables.features.attributes import AttributeColumns


class _Change(Struct, gc=False):
    offset: int
    item: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


class _Gaps:
    """What compaction has taken from a topic of versions, as far as can be told."""

    def __init__(self) -> None:
        self._records: dict[int, int] = {}
        self._below: dict[tuple[int, int], bool] = {}

    def count(self, partition: int, records: int) -> None:
        self._records[partition] = self._records.get(partition, 0) + records

    def look(self, partition: int, end: int) -> None:
        self._below[partition, end] = self._records.get(partition, 0) < end

    def below(self, partition: int, end: int) -> bool:
        """Whether records are missing before an offset."""
        return self._below.get((partition, end), False)


class CatalogueThen:
    """The attributes of all items, movable from one cut to another. `folded`: how many records it took."""

    def __init__(self, settings: Settings, spec: AgentSpec) -> None:
        self._settings = settings
        self._spec = spec
        self._held: dict[int, Partition[CatalogueEntry]] = {}
        self._changes: dict[int, list[_Change]] = {}
        """By partition, those from its first stop on."""
        self._at: dict[int, int] = {}
        """By partition, how many of these are in `attributes`."""
        self._gaps = _Gaps()
        self._last_new: dict[int, int] = {}
        """By partition, the offset of the last record that is the first one of its item."""
        self.folded = 0

    async def read(self, cuts: Collection[Ends], attributes: AttributeColumns, on_progress: OnProgress) -> None:
        """Read the topic, and put the catalogue of the lowest cut into `attributes`. Raises as `read_topic`."""
        stops: Stops = {p: {cut.get(p, 0): set() for cut in cuts} for p in range(self._settings.partitions)}
        lowest = {partition: min(places, default=0) for partition, places in stops.items()}

        def fold(partition: int, records: list[ConsumerRecord]) -> None:
            if records[0].offset < lowest[partition]:
                self._fold(partition, records)
            else:
                for record in records:
                    self._note_change(partition, record)

        def look(partition: int, end: int, keys: Collection[str]) -> None:
            self._gaps.look(partition, end)
            if end == lowest[partition]:
                held = self._partition(partition)
                for item in held:
                    attributes.put(item, _attributes(held, item))

        await pass_through(self._settings, self._spec.source, stops, fold, look, on_progress)

    def move(self, attributes: AttributeColumns, cut: Ends) -> None:
        """Make `attributes` those of a cut."""
        for partition, changes in self._changes.items():
            at, end = self._at.get(partition, 0), cut.get(partition, 0)
            while at < len(changes) and changes[at].offset < end:
                attributes.put(changes[at].item, changes[at].after)
                at += 1
            while at and changes[at - 1].offset >= end:
                at -= 1
                attributes.put(changes[at].item, changes[at].before)
            self._at[partition] = at

    def may_lack(self, cut: Ends) -> bool:
        """Whether an item may have had another version at a cut than the topic still has: it has a later one alone, and
        compaction has been there."""
        return any(last >= cut.get(p, 0) and self._gaps.below(p, cut.get(p, 0)) for p, last in self._last_new.items())

    def _partition(self, partition: int) -> Partition[CatalogueEntry]:
        return self._held.setdefault(partition, Partition(self._spec.codec))

    def _fold(self, partition: int, records: list[ConsumerRecord]) -> None:
        held = self._partition(partition)
        self._spec.fold.process(Slice(self._spec.source, partition, records), held)
        held.changed.clear()
        self._gaps.count(partition, len(records))
        self.folded += len(records)

    def _note_change(self, partition: int, record: ConsumerRecord) -> None:
        item = (record.key or b"").decode(errors="replace")
        held = self._partition(partition)
        is_new = item not in held
        before = _attributes(held, item)
        self._fold(partition, [record])
        if is_new and item in held:
            self._last_new[partition] = record.offset
        after = _attributes(held, item)
        if after is not before:
            self._changes.setdefault(partition, []).append(_Change(record.offset, item, before, after))


_NOTHING: Mapping[str, Any] = {}


def _attributes(held: Partition[CatalogueEntry], item: str) -> Mapping[str, Any]:
    entry = held.get(item)
    return _NOTHING if entry is None else entry.attributes


class ProfilesThen:
    """What was known of some users from elsewhere. `folded`: how many records it took."""

    def __init__(self, settings: Settings, spec: AgentSpec) -> None:
        self._settings = settings
        self._spec = spec
        self.wishes = Wishes()
        self._gaps = _Gaps()
        self._first: dict[str, int] = {}
        """The offset of the first record there is of each user."""
        self.folded = 0

    async def read(self, on_progress: OnProgress) -> None:
        """Read the topic. Raises as `read_topic`."""
        profiles = Folded(self._spec, self.wishes)

        def fold(partition: int, records: list[ConsumerRecord]) -> None:
            self._gaps.count(partition, len(records))
            for record in profiles.fold(partition, records):
                self._first.setdefault((record.key or b"").decode(), record.offset)

        def look(partition: int, end: int, keys: Collection[str]) -> None:
            self._gaps.look(partition, end)
            profiles.look(partition, end, keys)

        await pass_through(self._settings, self._spec.source, self.wishes.stops, fold, look, on_progress)
        self.folded += profiles.records

    def may_lack(self, user: str, partition: int, end: int) -> bool:
        """Whether a user may have had another version than the topic still has, as of an offset."""
        return self._first.get(user, -1) >= end and self._gaps.below(partition, end)
