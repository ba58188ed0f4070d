"""Creating topics, and checking that those which exist fit."""

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.topics import TopicSpec, topic_specs


async def ensure_topics(settings: Settings) -> list[TopicSpec]:
    """Create the topics that are missing and return all. Raises ConfigError where one has other partitions.

    Tables and their source topics are joined partition by partition, so a topic with another count would give
    wrong state, not an error, later.
    """
    specs = list(topic_specs(settings))
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        existing = await _partition_counts(admin)
        missing = [spec for spec in specs if spec.name not in existing]
        if missing:
            await _create(admin, missing, settings.replication_factor)
            existing |= {spec.name: spec.partitions for spec in missing}
    finally:
        await admin.close()
    for spec in specs:
        if existing[spec.name] != spec.partitions:
            raise ConfigError(
                f"topic {spec.name} has {existing[spec.name]} partitions, but {spec.partitions} are configured.",
                hint="Set PERSONA_PARTITIONS to the topic's count, or use another PERSONA_NAMESPACE.",
            )
    return specs


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
