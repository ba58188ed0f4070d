"""One way through a topic, with stops: what is folded is looked at as of some offsets, in their order."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping
from operator import attrgetter
from typing import Any

from aiokafka import ConsumerRecord

from models.topic_reader import OnProgress, read_topic
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.worker.app import AgentSpec

Stops = dict[int, dict[int, set[str]]]
"""Partition -> the offset after the last record folded -> the keys to look at then."""
Fold = Callable[[int, list[ConsumerRecord]], object]
"""Folds consecutive records of a partition."""
Look = Callable[[int, int, Collection[str]], None]
"""Looks at keys of a partition, as of an offset: all records before it are folded, and none behind it."""

_OFFSET = attrgetter("offset")


class Wishes:
    """What is to be looked at, and what it was; states are encoded, None where nothing was held."""

    def __init__(self) -> None:
        self.stops: Stops = {}
        self._seen: dict[tuple[str, int], bytes | None] = {}
        self._last: dict[str, bytes | None] = {}

    def add(self, partition: int, end: int, key: str) -> None:
        """Wish for the state of a key as of an offset of its partition."""
        self.stops.setdefault(partition, {}).setdefault(end, set()).add(key)

    def fulfil(self, key: str, end: int, state: bytes | None) -> None:
        """Keep a state. One that is as it was at the stop before takes no memory again."""
        kept = self._last.get(key)
        self._last[key] = kept = kept if kept == state else state
        self._seen[key, end] = kept

    def state(self, key: str, end: int) -> bytes | None:
        """What was held of a key as of an offset."""
        return self._seen[key, end]

    def keys(self, partition: int) -> set[bytes]:
        """All keys of a partition that are wished for."""
        return {key.encode() for keys in self.stops.get(partition, {}).values() for key in keys}

    def ends(self) -> dict[int, int]:
        """By partition, the last stop."""
        return {partition: max(stops) for partition, stops in self.stops.items()}


class Folded:
    """The keys of one table that are wished for, folded as its source passes, and looked at."""

    def __init__(self, spec: AgentSpec, wishes: Wishes) -> None:
        self._spec = spec
        self._wishes = wishes
        self._wanted: dict[int, set[bytes]] = {}
        self._held: dict[int, Partition[Any]] = {}
        self.records = 0
        """How many it took."""

    def fold(self, partition: int, records: list[ConsumerRecord]) -> list[ConsumerRecord]:
        """Fold those of keys that are wished for, which are returned."""
        wanted = self._wanted.get(partition)
        if wanted is None:
            wanted = self._wanted[partition] = self._wishes.keys(partition)
        mine = [record for record in records if record.key in wanted]
        if mine:
            state = self._held.setdefault(partition, Partition(self._spec.codec))
            self._spec.fold.process(Slice(self._spec.source, partition, mine), state)
            state.changed.clear()
            self.records += len(mine)
        return mine

    def look(self, partition: int, end: int, keys: Collection[str]) -> None:
        """Keep what is held of keys as of an offset."""
        held = self._held.get(partition)
        for key in keys:
            self._wishes.fulfil(key, end, held.encoded(key) if held is not None else None)


async def pass_through(
    settings: Settings,
    topic: str,
    stops: Stops,
    fold: Fold,
    look: Look,
    on_progress: OnProgress,
    *,
    ends: Mapping[int, int] | None = None,
) -> None:
    """Read a topic once, up to `ends` (None: as far as it goes), and stop at each place. Raises as `read_topic`."""
    left = {partition: sorted(places) for partition, places in stops.items()}
    async for records in read_topic(settings, topic, ends=ends, on_progress=on_progress):
        partition = records[0].partition
        done = 0
        for end in _due(left.get(partition, []), records[-1].offset + 1):
            at = bisect_left(records, end, key=_OFFSET)
            if at > done:
                fold(partition, records[done:at])
                done = at
            look(partition, end, stops[partition][end])
        if done < len(records):
            fold(partition, records[done:])
        # A job answers its probes meanwhile.
        await asyncio.sleep(0)
    for partition, places in left.items():
        for end in places:
            look(partition, end, stops[partition][end])


def _due(left: list[int], position: int) -> Iterator[int]:
    """Stops that all records are read for, taken out."""
    while left and left[0] <= position:
        yield left.pop(0)
