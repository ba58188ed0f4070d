"""A new generation's changelogs: made, written once per key by their only owner, and read back."""

import asyncio
from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError

from models.topic_reader import read_topic
from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.fenced_writer import FencedWriter
from persona_stream.kafka.generations import History
from persona_stream.kafka.writer import Record
from persona_stream.rebuild.folding import Folded
from persona_stream.rebuild.snapshot import Held
from persona_stream.stream.partition import OWNER_KEY, PROGRESS_KEY
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import GenerationError
from persona_stream.vocabulary.topics import FIRST_GENERATION, TABLES, Topics, changelog_spec

_MARK = Record(OWNER_KEY, b"rebuild")


async def next_number(settings: Settings, history: History) -> int:
    """The number of the next generation, above every one that was made, or begun.

    What rebuilds have left that did not get to their end is deleted.
    """
    begun = await _begun(settings)
    for number in begun - {*history.built(), *history.live().values()}:
        await delete_generation(settings, number)
    return max(history.newest(), *begun, FIRST_GENERATION) + 1


async def _begun(settings: Settings) -> set[int]:
    """Generations that have a topic, the first one apart."""
    found = set()
    for topic in await _topics(settings):
        for table in TABLES:
            prefix, _, number = topic.rpartition("-g")
            if prefix == Topics(settings.namespace).changelog(table) and number.isdigit():
                found.add(int(number))
    return found


async def delete_generation(settings: Settings, number: int, tables: Iterable[str] = TABLES) -> None:
    """Delete a generation's changelogs."""
    names = [Topics(settings.namespace).changelog(table, number) for table in tables]
    there = await _topics(settings)
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        present = [name for name in names if name in there]
        if present:
            await admin.delete_topics(present)
    except UnknownTopicOrPartitionError:
        # Another command was first.
        return
    finally:
        await admin.close()


async def write_generation(settings: Settings, number: int, folded: Iterable[Folded]) -> None:
    """Make the changelogs, write each key and then the progress, and read them back.

    Fills `written` of each table. Raises GenerationError where what is read is not what was written.
    """
    tables = list(folded)
    await ensure_topics(settings, [changelog_spec(settings, table.spec.table, number) for table in tables])
    writer = FencedWriter(settings, client_id=f"{settings.namespace}-rebuild")
    await writer.start()
    try:
        for table in tables:
            topic = Topics(settings.namespace).changelog(table.spec.table, number)
            await asyncio.gather(*(_write(writer, table, topic, partition) for partition in table.partitions))
    finally:
        await writer.stop()
    for table in tables:
        await _check(settings, table, Topics(settings.namespace).changelog(table.spec.table, number))


async def _write(writer: FencedWriter, table: Folded, topic: str, number: int) -> None:
    # Claimed, so that nobody else can have written before, or does in between.
    await writer.claim(topic, number, _MARK)
    records = table.partitions[number].take_changes()
    await writer.append(topic, number, records)
    table.written[number] = {
        record.key: record.value for record in records if record.value is not None and record.key != PROGRESS_KEY
    }


async def _check(settings: Settings, table: Folded, topic: str) -> None:
    found = {number: Held() for number in table.partitions}
    async for records in read_topic(settings, topic):
        apply = found[records[0].partition].apply
        for record in records:
            apply(record)
    for number, held in found.items():
        expected = table.partitions[number].progress
        if held.behind or held.values != table.written[number] or held.progress != expected:
            raise GenerationError(
                f"partition {number} of {topic} does not hold what was written: {len(held.values):,} keys of "
                f"{len(table.written[number]):,}.",
                hint="Another program writes to it, or deletes from it; nothing was switched.",
            )


async def _topics(settings: Settings) -> set[str]:
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()
