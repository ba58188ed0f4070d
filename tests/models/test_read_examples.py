"""Reading the examples topic: whole, in the order of time, and no further than where it ended."""

import uuid
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
import structlog

from models.topic_reader import read_topic
from models.train import read_examples
from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.messages import Example, encode
from persona_stream.vocabulary.topics import Topics

MakeExamples = Callable[..., list[Example]]


@pytest_asyncio.fixture
async def settings(kafka: str) -> AsyncIterator[Settings]:
    made = Settings.load({"kafka": kafka, "namespace": f"examples-{uuid.uuid4().hex[:8]}"}, env={})
    await ensure_topics(made)
    yield made


async def _write(settings: Settings, records: list[Record]) -> None:
    writer = BatchWriter(settings, client_id="test")
    await writer.start()
    try:
        await writer.write_keyed(Topics(settings.namespace).examples, records)
    finally:
        await writer.stop()


def _records(examples: list[Example]) -> list[Record]:
    return [Record(example.user.encode(), encode(example)) for example in examples]


@pytest.mark.asyncio
async def test_all_partitions_come_back_in_the_order_of_time(settings: Settings, make_examples: MakeExamples) -> None:
    examples = make_examples(2000)
    await _write(settings, _records(examples[::-1]))
    seen: list[tuple[int, int]] = []
    assert await read_examples(settings, on_progress=lambda done, total: seen.append((done, total))) == examples
    assert seen[0] == (0, 2000)
    assert seen[-1] == (2000, 2000)
    assert seen == sorted(seen)


@pytest.mark.asyncio
async def test_what_is_written_while_reading_is_left_to_the_next_reader(
    settings: Settings, make_examples: MakeExamples
) -> None:
    topic, records = Topics(settings.namespace).examples, _records(make_examples(60))
    await _write(settings, records)
    reading = read_topic(settings, topic)
    batches = [await anext(reading)]
    await _write(settings, records)
    batches += [batch async for batch in reading]
    assert sum(map(len, batches)) == 60


@pytest.mark.asyncio
async def test_an_origin_can_be_kept_apart(settings: Settings, make_examples: MakeExamples) -> None:
    examples = make_examples(10)
    for example in examples[:4]:
        example.origin = "backfill"
    await _write(settings, _records(examples))
    assert await read_examples(settings, origins={"backfill"}) == examples[:4]
    assert await read_examples(settings, origins={"online", "backfill"}) == examples


@pytest.mark.asyncio
async def test_an_empty_topic_has_no_examples(settings: Settings) -> None:
    assert await read_examples(settings) == []


@pytest.mark.asyncio
async def test_a_record_that_is_no_example_is_named_and_left_out(
    settings: Settings, make_examples: MakeExamples
) -> None:
    examples = make_examples(2)
    await _write(settings, [*_records(examples), Record(b"u1", b"no example"), Record(b"u1", None)])
    with structlog.testing.capture_logs() as logs:
        assert await read_examples(settings) == examples
    assert [line["event"] for line in logs] == ["not an example", "not an example"]
    assert all(line["topic"] == Topics(settings.namespace).examples for line in logs)


@pytest.mark.asyncio
async def test_a_missing_topic_is_named(kafka: str) -> None:
    with pytest.raises(ConfigError, match=r"topic nowhere.examples.v1 does not exist"):
        await read_examples(Settings.load({"kafka": kafka, "namespace": "nowhere"}, env={}))
