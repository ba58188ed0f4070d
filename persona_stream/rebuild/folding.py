"""Source topics folded again: the agents' own folds, with as little as can be around them."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from aiokafka import ConsumerRecord
from msgspec import MsgspecError, Struct, field

from agents.emissions import Emissions
from agents.interactions import Interactions
from models.topic_reader import OnProgress, read_topic
from persona_stream.rebuild.second_process import IntoItems, IntoProcess, is_worth_it
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import parse_event, parse_item, parse_profile
from persona_stream.vocabulary.messages import decode_example, decode_item_event
from persona_stream.vocabulary.topics import Topics
from persona_stream.worker.app import AgentSpec

FETCH_BYTES = 8 * 1024 * 1024
APART_FROM = 100_000
"""From so many events on a second process helps: it takes a second to start."""
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
    started_s = perf_counter()
    spec = table.spec
    is_earlier = _earlier(settings, spec.source, until_ms)
    reading = read_topic(
        settings, spec.source, starts=starts, ends=ends, fetch_bytes=FETCH_BYTES, on_progress=on_progress
    )
    async for records in reading:
        wanted = list(filter(is_earlier, records)) if is_earlier else records
        table.records += len(records)
        if wanted:
            number = records[0].partition
            spec.fold.process(Slice(spec.source, number, wanted), table.partitions[number])
    table.seconds += perf_counter() - started_s


async def fold_events(
    settings: Settings, users: Folded, items: Folded | None, ends: Bounds, *, until_ms: int, on_progress: OnProgress
) -> None:
    """Fold the events into users, and what follows from each at once into items, up to before `ends`."""
    started_s = perf_counter()
    source = users.spec.source
    is_earlier = _earlier(settings, source, until_ms)
    interactions = users.spec.fold
    assert isinstance(interactions, Interactions)
    into: IntoItems | IntoProcess | None = None
    if items is not None and sum(ends.values()) >= APART_FROM and is_worth_it():
        into = IntoProcess(interactions.settings, users.partitions, items.partitions)
    elif items is not None:
        into = IntoItems(items.partitions)
    async for records in read_topic(settings, source, ends=ends, fetch_bytes=FETCH_BYTES, on_progress=on_progress):
        wanted = list(filter(is_earlier, records)) if is_earlier else records
        users.records += len(records)
        if not wanted:
            continue
        number = records[0].partition
        if isinstance(into, IntoProcess) and into.takes(number):
            into.fold_events(number, wanted)
            continue
        part = Slice(source, number, wanted)
        made = interactions.fold(part, users.partitions[number], Emissions(Topics(settings.namespace)))
        if into is not None:
            into.fold(made)
    users.seconds += perf_counter() - started_s
    if items is not None and into is not None:
        into.finish()
        items.records += into.records
        items.seconds += into.seconds
        if isinstance(into, IntoItems):
            users.seconds -= into.seconds


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
