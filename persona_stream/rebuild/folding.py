"""Source topics folded again: the agents' own folds, with as little as can be around them."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from aiokafka import ConsumerRecord
from msgspec import MsgspecError, Struct, field

from agents.emissions import Emissions
from agents.interactions import Interactions
from agents.items import Items
from models.topic_reader import OnProgress, read_topic
from persona_stream.kafka.writer import Partitioner
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import parse_event, parse_item, parse_profile
from persona_stream.vocabulary.messages import ItemEvent, decode_example, decode_item_event, decode_shown
from persona_stream.vocabulary.topics import Topics
from persona_stream.worker.app import AgentSpec

FETCH_BYTES = 8 * 1024 * 1024
Bounds = Mapping[int, int]
"""Partition -> offset."""


class Folded(Struct):
    """A table folded again."""

    spec: AgentSpec
    partitions: dict[int, Partition[Any]]
    records: int = 0
    """Source records folded."""
    seconds: float = 0.0
    """Spent on it: reading, folding and writing."""
    written: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    """By partition, each key's value as the changelog gets it."""


def folded_of(spec: AgentSpec, settings: Settings) -> Folded:
    """Nothing folded yet."""
    return Folded(spec, {number: Partition(spec.codec) for number in range(settings.partitions)})


async def fold_source(
    settings: Settings, table: Folded, ends: Bounds, *, starts: Bounds | None, until_ms: int, on_progress: OnProgress
) -> None:
    """Fold the source of a table, up to before `ends`."""

    def fold(part: Slice) -> None:
        table.spec.fold.process(part, table.partitions[part.partition])

    await _read(settings, table, ends, starts, until_ms, on_progress, fold)


async def fold_users(
    settings: Settings,
    users: Folded,
    ends: Bounds,
    *,
    until_ms: int,
    on_progress: OnProgress,
    hand_on: Callable[[list[ItemEvent]], None],
) -> None:
    """Fold the events into users, up to before `ends`; what follows from each slice for items goes to `hand_on`."""
    interactions, topics = users.spec.fold, Topics(settings.namespace)
    assert isinstance(interactions, Interactions)

    def fold(part: Slice) -> None:
        hand_on(interactions.fold(part, users.partitions[part.partition], Emissions(topics)))

    await _read(settings, users, ends, None, until_ms, on_progress, fold)


class IntoItems:
    """Item events folded as they come: each carries its source partition and offset, so an item's value is the same
    whatever the order of partitions."""

    def __init__(self, items: Folded) -> None:
        self._items = items
        self._partition_of = Partitioner(len(items.partitions))
        self._parts: list[list[ItemEvent]] = [[] for _ in items.partitions]
        self._by_item: dict[str, list[ItemEvent]] = {}

    def fold(self, made: Sequence[ItemEvent]) -> None:
        """Fold what a slice of events gave rise to."""
        started_s = perf_counter()
        by_item = self._by_item
        for event in made:
            part = by_item.get(event.item)
            if part is None:
                part = by_item[event.item] = self._parts[self._partition_of(event.item.encode())]
            part.append(event)
        for number, events in enumerate(self._parts):
            if events:
                Items.fold(events, self._items.partitions[number])
                events.clear()
        self._items.records += len(made)
        self._items.seconds += perf_counter() - started_s


async def _read(
    settings: Settings,
    table: Folded,
    ends: Bounds,
    starts: Bounds | None,
    until_ms: int,
    on_progress: OnProgress,
    fold: Callable[[Slice], None],
) -> None:
    started_s = perf_counter()
    source = table.spec.source
    is_earlier = _earlier(settings, source, until_ms)
    reading = read_topic(settings, source, starts=starts, ends=ends, fetch_bytes=FETCH_BYTES, on_progress=on_progress)
    async for records in reading:
        wanted = list(filter(is_earlier, records)) if is_earlier else records
        table.records += len(records)
        if wanted:
            fold(Slice(source, records[0].partition, wanted))
    table.seconds += perf_counter() - started_s


def _earlier(settings: Settings, source: str, until_ms: int) -> Callable[[ConsumerRecord], bool] | None:
    """Whether a record tells of something before `until_ms`; None where there is no such bound."""
    if not until_ms:
        return None
    topics = Topics(settings.namespace)
    time_of: dict[str, Callable[[bytes], int]] = {
        topics.events: lambda raw: int(parse_event(raw).ts),
        topics.items: lambda raw: int(parse_item(raw).ts),
        topics.profiles: lambda raw: int(parse_profile(raw).ts),
        topics.item_events: lambda raw: decode_item_event(raw).ts_ms,
        topics.shown: lambda raw: decode_shown(raw).ts_ms,
        topics.examples: lambda raw: decode_example(raw).ts_ms,
    }
    tell = time_of[source]

    def is_earlier(record: ConsumerRecord) -> bool:
        try:
            return (record.timestamp if record.value is None else tell(record.value)) < until_ms
        except (EventError, MsgspecError):
            # It is a dead letter, whenever it happened.
            return False

    return is_earlier
