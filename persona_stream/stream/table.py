"""A Faust table that is folded by the slice, and whose changelog is written by the batch."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, TypeVar

import faust
from faust.stores import memory
from faust.types import TP

from persona_stream.stream.consumer import SliceSchema
from persona_stream.stream.partition import Codec, Partition

V = TypeVar("V")

OpenPartition = Callable[[Codec[V], str, int], Partition[V]]
"""Gives the state of a partition of a changelog, as it is held before that is read back."""


class PartitionedStore(memory.Store[str, V], Generic[V]):
    """One `Partition` for each partition of the changelog that this worker has."""

    def __init__(
        self, *args: Any, open_partition: Callable[[int], Partition[V]], assigned_as: str, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._open_partition = open_partition
        self._assigned_as = assigned_as
        self.partitions: dict[int, Partition[V]] = {}

    def _clear(self) -> None:
        for number in list(self.partitions):
            self.drop(number)

    def partition(self, number: int) -> Partition[V]:
        """The state of a partition, opened where it is not held yet."""
        held = self.partitions.get(number)
        if held is None:
            held = self.partitions[number] = self._open_partition(number)
        return held

    def drop(self, number: int) -> None:
        """Let go of a partition, to read it anew."""
        held = self.partitions.pop(number, None)
        if held is not None:
            held.close()

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Drop the partitions that other workers have now: theirs is the newer state."""
        mine = {tp.partition for tp in (*active_tps, *standby_tps) if tp.topic == self._assigned_as}
        for number in [number for number in self.partitions if number not in mine]:
            self.drop(number)

    def _holding(self, key: object) -> Partition[V] | None:
        return next((part for part in self.partitions.values() if isinstance(key, str) and key in part), None)

    def __getitem__(self, key: str) -> V:
        holder = self._holding(key)
        value = holder.get(key) if holder is not None else None
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: V) -> None:
        raise NotImplementedError("write through ChangelogTable, which knows the partition")

    def __delitem__(self, key: str) -> None:
        raise NotImplementedError("write through ChangelogTable, which knows the partition")

    def __contains__(self, key: object) -> bool:
        return self._holding(key) is not None

    def __iter__(self) -> Iterator[str]:
        for part in self.partitions.values():
            yield from part

    def __len__(self) -> int:
        return sum(len(part) for part in self.partitions.values())


class ChangelogTable(faust.Table, Generic[V]):  # type: ignore[type-arg]  # Faust's own generics are incomplete
    """A table folded by the slice: `partition(n)` is what an agent folds into.

    The agent takes `partition(n).take_changes()` after each slice and has them written to the changelog before it marks
    the slice applied: one record a changed key, whatever the slice did to it.

    `changelog` is the topic that is read and written. Faust assigns partitions by `assigned_as`, which is the same in
    every generation: workers of one group may differ in their generation for a moment, never in what they ask for.
    """

    def __init__(
        self,
        app: faust.App,
        *,
        codec: Codec[V],
        open_partition: OpenPartition[V],
        changelog: str,
        assigned_as: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.codec = codec
        self.changelog = changelog
        self._open_partition = open_partition
        topic = app.topic(assigned_as or changelog, schema=SliceSchema(), compacting=True, acks=False, internal=True)
        super().__init__(app, changelog_topic=topic, **kwargs)

    def _new_store(self) -> PartitionedStore[V]:
        return PartitionedStore(
            "memory://",
            self.app,
            self,
            table_name=self.name,
            open_partition=partial(self._open_partition, self.codec, self.changelog),
            assigned_as=self.changelog_topic_name,
        )

    @property
    def store(self) -> PartitionedStore[V]:
        """The partitions held."""
        store = self.data
        assert isinstance(store, PartitionedStore)
        return store

    def partition(self, number: int) -> Partition[V]:
        """The state of a partition, to fold into."""
        return self.store.partition(number)

    def drop(self, number: int) -> None:
        """Let go of the state of a partition, to read it anew."""
        self.store.drop(number)

    def __setitem__(self, key: str, value: V) -> None:
        """Set a key in an agent: it is in the partition of the current event."""
        self.partition(self._current_partition(key)).put(key, value)

    def __delitem__(self, key: str) -> None:
        """Delete a key in an agent."""
        self.partition(self._current_partition(key)).delete(key)

    def _current_partition(self, key: str) -> int:
        number = self.partition_for_key(key)
        if number is None:
            raise TypeError(f"table {self.name}: the partition of key {key!r} is not known")
        return number
