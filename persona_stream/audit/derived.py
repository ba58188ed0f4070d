"""The items table folded again from `events.v1`: `internal.item-events` keeps a few days only.

An item's value does not depend on how partitions interleave, so what the users fold sends on may come in any order of
partitions.
"""

from collections.abc import Mapping

from models.topic_reader import OnProgress, read_topic
from persona_stream.kafka.writer import Partitioner, Record
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import LogRecord, Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import ItemEvent, decode_item_event
from persona_stream.vocabulary.topics import Topics
from persona_stream.worker.app import AgentSpec, agent_specs
from tables.items import ItemState, codec

Held = Mapping[int, Mapping[bytes, bytes]]
"""Partition -> item -> its encoded state."""


async def derive_items(
    settings: Settings, spec: AgentSpec, held: Held, on_progress: OnProgress
) -> tuple[dict[int, Partition[object]], int]:
    """The items of each partition of `held`, folded up to where it stands; and how many events are gone."""
    item_events = Topics(settings.namespace).item_events
    # With examples: an item that was shown as a negative keeps where that came from, too.
    users = next(agent for agent in agent_specs(settings) if agent.table == "users")
    people: dict[int, Partition[object]] = {}
    items: dict[int, Partition[object]] = {partition: Partition(spec.codec) for partition in held}
    applied = {partition: _Applied(values) for partition, values in held.items()}
    split = Partitioner(settings.partitions).split
    lost = 0
    async for records in read_topic(settings, users.source, on_progress=on_progress):
        source = records[0].partition
        if source not in people:
            people[source] = Partition(users.codec)
            lost += records[0].offset
        out = users.fold.process(Slice(users.source, source, records), people[source])
        people[source].changed.clear()
        for partition, made in split(out.by_topic.get(item_events, [])).items():
            if partition in items:
                _fold(spec, item_events, partition, [r for r in made if applied[partition].has(r)], items[partition])
    return items, lost


def _fold(spec: AgentSpec, topic: str, number: int, made: list[Record], items: Partition[object]) -> None:
    if not made:
        return
    first = items.progress.offset + 1
    records = [LogRecord(first + at, 0, record.key, record.value) for at, record in enumerate(made)]
    spec.fold.process(Slice(topic, number, records), items)
    items.changed.clear()


class _Applied:
    """Which item events a partition of the table holds: those of each source partition up to an offset.

    At that offset itself, where an event has several items, some may be held and others not yet: their own state tells.
    """

    def __init__(self, values: Mapping[bytes, bytes]) -> None:
        self._own: dict[str, dict[int, int]] = {}
        self._highest: dict[int, int] = {}
        for item, raw in values.items():
            state: ItemState = codec.decode(raw)
            self._own[item.decode()] = state.applied
            for source, offset in state.applied.items():
                self._highest[source] = max(offset, self._highest.get(source, -1))

    def has(self, record: Record) -> bool:
        event: ItemEvent = decode_item_event(record.value or b"")
        source, offset = event.source_partition, event.source_offset
        highest = self._highest.get(source, -1)
        return offset < highest or (offset == highest and self._own.get(event.item, {}).get(source) == offset)
