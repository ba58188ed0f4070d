"""Creating topics, and checking that those which exist fit."""

import asyncio
import time
from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.topics import TopicSpec, topic_specs

VISIBLE_WITHIN_S = 15.0
POLL_S = 0.05


async def ensure_topics(settings: Settings, specs: Iterable[TopicSpec] = ()) -> list[TopicSpec]:
    """Create the topics that are missing (by default of all the system's) and return all, once brokers show them.

    Raises ConfigError where one has other partitions than configured.

    Tables and their source topics are joined partition by partition, so a topic with another count would give
    wrong state, not an error, later.
    """
    specs = list(specs) or list(topic_specs(settings))
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        existing = await _partition_counts(admin)
        missing = [spec for spec in specs if spec.name not in existing]
        if missing:
            await _create(admin, missing, settings.replication_factor)
            existing |= await _until_visible(admin, {spec.name for spec in missing})
    finally:
        await admin.close()
    for spec in specs:
        if existing[spec.name] != spec.partitions:
            raise ConfigError(
                f"topic {spec.name} has {existing[spec.name]} partitions, but {spec.partitions} are configured.",
                hint="Set PERSONA_PARTITIONS to the topic's count, or use another PERSONA_NAMESPACE.",
            )
    return specs


async def _until_visible(admin: AIOKafkaAdminClient, names: set[str]) -> dict[str, int]:
    """Wait until brokers show new topics: the controller answers a creation before they know of it."""
    deadline_s = time.monotonic() + VISIBLE_WITHIN_S
    while not names <= (shown := await _partition_counts(admin)).keys():
        if time.monotonic() > deadline_s:
            listed = ", ".join(sorted(names - shown.keys()))
            raise ConfigError(
                f"topics {listed} were created, but brokers do not show them.", hint="Are all of them up?"
            )
        await asyncio.sleep(POLL_S)
    return shown


async def _partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    described = await admin.describe_topics(await admin.list_topics())
    return {topic["topic"]: len(topic["partitions"]) for topic in described}


async def _create(admin: AIOKafkaAdminClient, specs: list[TopicSpec], replication_factor: int) -> None:
    response = await admin.create_topics(
        [NewTopic(spec.name, spec.partitions, replication_factor, topic_configs=spec.config) for spec in specs]
    )
    for topic, code, *_ in response.topic_errors:
        error = for_code(code)
        # Another process of the same `up` may have been first.
        if code and error is not TopicAlreadyExistsError:
            raise ConfigError(f"topic {topic} can't be created: {error.__name__}.", hint="See the broker's log.")
