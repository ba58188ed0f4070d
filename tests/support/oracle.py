"""What the tables must hold after an events topic, folded here without Kafka, workers or faults."""

from collections.abc import Iterable
from typing import Any

from aiokafka import ConsumerRecord

from persona_stream.kafka.writer import Partitioner, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics
from persona_stream.worker.app import agent_specs
from support.cluster import Table
from support.logs import Log, log_of_records, slices
from support.runs import run


def expected_tables(settings: Settings, events: Iterable[ConsumerRecord]) -> tuple[Table, dict[str, Any]]:
    """The users table as bytes by partition, and the items as values: the order of their dicts is that of arrival."""
    specs = {spec.table: spec for spec in agent_specs(settings)}
    topics = Topics(settings.namespace)
    logs: dict[int, Log] = {}
    for record in events:
        logs.setdefault(record.partition, []).append(record)
    users: Table = {}
    moved: dict[int, list[Record]] = {}
    partition_of = Partitioner(settings.partitions)
    for partition, log in sorted(logs.items()):
        spec = specs["users"]
        done = run(spec.fold, spec.codec, slices(log, topic=topics.events, partition=partition))
        users[partition] = {key.encode(): spec.codec.encode(done.state.get(key)) for key in done.state}
        for made in done.emitted.get(topics.item_events, []):
            moved.setdefault(partition_of(made.key), []).append(made)
    items: dict[str, Any] = {}
    for partition, made_here in moved.items():
        spec = specs["items"]
        log = log_of_records(made_here)
        held = run(spec.fold, spec.codec, slices(log, topic=topics.item_events, partition=partition)).state
        items.update({key: held.get(key) for key in held})
    return users, items
