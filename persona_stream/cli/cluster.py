"""What the cluster holds, as operators ask for it: topics, partitions, end offsets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError
from msgspec import Struct

from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.reader import free_consumer
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError, PersonaError
from persona_stream.vocabulary.topics import Topics, topic_specs


class KafkaUnavailableError(PersonaError):
    """No broker answers at the configured address."""

    code = "kafka-unavailable"


class TopicState(Struct, frozen=True):
    """One topic that the system needs, and what the cluster has of it. `partitions` 0: it does not exist."""

    name: str
    configured_partitions: int
    partitions: int
    end_offsets: int
    """Sum over the partitions: records ever written."""


@asynccontextmanager
async def reachable(settings: Settings) -> AsyncIterator[None]:
    """Turn a failed connection inside the block into KafkaUnavailableError."""
    try:
        yield
    except KafkaConnectionError as error:
        raise KafkaUnavailableError(
            f"no Kafka broker answers at {settings.kafka}: {error}.",
            hint="Is it running, and is the address right? `persona-stream doctor` checks the rest.",
        ) from error


async def partition_counts(settings: Settings) -> dict[str, int]:
    """Partitions of every topic of the cluster. Raises KafkaUnavailableError."""
    async with reachable(settings):
        admin = AIOKafkaAdminClient(**settings.kafka_client())
        try:
            await admin.start()
            described = await admin.describe_topics(await admin.list_topics())
        finally:
            await admin.close()
    return {topic["topic"]: len(topic["partitions"]) for topic in described}


async def with_topic_partitions(settings: Settings) -> Settings:
    """`settings` with the partitions that the topics have: what a fold sends on depends on it.

    Raises ConfigError where there are no topics, and KafkaUnavailableError.
    """
    events = Topics(settings.namespace).events
    counts = await partition_counts(settings)
    if events not in counts:
        raise _missing(settings, events)
    return msgspec.structs.replace(settings, partitions=counts[events])


async def create_topics(settings: Settings) -> None:
    """Create the system's missing topics. Raises ConfigError as `ensure_topics` does, and KafkaUnavailableError."""
    async with reachable(settings):
        await ensure_topics(settings)


async def require_topic(settings: Settings, topic: str) -> None:
    """Raise ConfigError where `topic` does not exist: a producer would wait for it for a long time."""
    if topic not in await partition_counts(settings):
        raise _missing(settings, topic)


def _missing(settings: Settings, topic: str) -> ConfigError:
    return ConfigError(
        f"topic {topic} does not exist at {settings.kafka}.",
        hint="`persona-stream topics --create` creates what the system needs; is --namespace right?",
    )


async def topic_states(settings: Settings) -> list[TopicState]:
    """Every topic that the system needs, in the order of the data's way. Raises KafkaUnavailableError."""
    counts = await partition_counts(settings)
    specs = list(topic_specs(settings))
    ends = await end_offsets(settings, {spec.name: counts[spec.name] for spec in specs if spec.name in counts})
    return [TopicState(spec.name, spec.partitions, counts.get(spec.name, 0), ends.get(spec.name, 0)) for spec in specs]


async def end_offsets(settings: Settings, partitions: dict[str, int]) -> dict[str, int]:
    """The sum of end offsets of each topic, given its number of partitions. Raises KafkaUnavailableError."""
    if not partitions:
        return {}
    async with reachable(settings):
        consumer = free_consumer(settings)
        try:
            await consumer.start()
            wanted = [TopicPartition(name, p) for name, count in partitions.items() for p in range(count)]
            ends = await consumer.end_offsets(wanted)
        finally:
            await consumer.stop()
    sums = dict.fromkeys(partitions, 0)
    for place, end in ends.items():
        sums[place.topic] += end
    return sums
