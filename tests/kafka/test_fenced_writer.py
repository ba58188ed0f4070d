"""A partition has one owner: what a former one sends, at once or after months, is refused; nothing is written twice."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from aiokafka.errors import RequestTimedOutError
from support.cluster import create_topic, end_offsets, read_all

from persona_stream.kafka import fenced_writer
from persona_stream.kafka.fenced_writer import UNKNOWN, FencedWriter
from persona_stream.kafka.writer import BATCH_BYTES, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import PartitionLostError

MARK = Record(b"\0owner", b"me")
NewOwner = Callable[[], Awaitable[FencedWriter]]


@pytest.fixture
async def topic(kafka: str) -> str:
    """A topic of two partitions."""
    name = f"fenced-{uuid4().hex[:8]}"
    await create_topic(kafka, name, 2)
    return name


@pytest.fixture
async def new_owner(kafka: str, topic: str) -> AsyncIterator[NewOwner]:
    """`await new_owner()`: a writer that has claimed partition 0."""
    async with AsyncExitStack() as stack:

        async def make() -> FencedWriter:
            writer = FencedWriter(Settings(kafka=kafka), client_id="test")
            await writer.start()
            stack.push_async_callback(writer.stop)
            await writer.claim(topic, 0, MARK)
            return writer

        yield make


def _records(*values: bytes) -> list[Record]:
    return [Record(b"k", value) for value in values]


async def _values(kafka: str, topic: str) -> list[bytes]:
    return [record.value for record in await read_all(kafka, topic) if record.key != MARK.key]


async def test_the_latest_claim_writes_and_earlier_are_refused(kafka: str, topic: str, new_owner: NewOwner) -> None:
    first = await new_owner()
    await first.append(topic, 0, _records(b"a", b"b"))
    assert first.end_offset(topic, 0) == 3
    second = await new_owner()
    with pytest.raises(PartitionLostError, match=f"{topic}/0 was claimed by another worker"):
        await first.append(topic, 0, _records(b"refused"))
    await second.append(topic, 0, _records(b"c"))
    assert await _values(kafka, topic) == [b"a", b"b", b"c"]
    assert second.end_offset(topic, 0) == (await end_offsets(kafka, topic))[0]
    # A claim is of one partition.
    await first.claim(topic, 1, MARK)
    await first.append(topic, 1, _records(b"d"))
    assert await _values(kafka, topic) == [b"a", b"b", b"c", b"d"]


async def test_without_a_claim_nothing_is_written(topic: str, new_owner: NewOwner) -> None:
    writer = await new_owner()
    assert writer.end_offset(topic, 1) == UNKNOWN
    with pytest.raises(PartitionLostError):
        await writer.append(topic, 1, _records(b"a"))


async def test_an_old_claim_is_renewed_unless_another_was_made(
    kafka: str, topic: str, new_owner: NewOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fenced_writer, "RENEW_S", -1.0)
    first = await new_owner()
    for value in (b"a", b"b", b"c"):
        await first.append(topic, 0, _records(value))
    second = await new_owner()
    with pytest.raises(PartitionLostError, match="claimed by another worker"):
        await first.append(topic, 0, _records(b"refused"))
    # A renewal that was refused takes nothing from the one who has it.
    await second.append(topic, 0, _records(b"d"))
    assert await _values(kafka, topic) == [b"a", b"b", b"c", b"d"]


async def test_a_batch_whose_answer_was_lost_is_in_the_log_once(
    kafka: str, topic: str, new_owner: NewOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await new_owner()
    send, lost = writer.client.send, 2

    async def send_and_lose_the_answer(*args: object, **kwargs: object) -> object:
        nonlocal lost
        answer = await send(*args, **kwargs)
        if lost:
            lost -= 1
            raise RequestTimedOutError
        return answer

    monkeypatch.setattr(writer.client, "send", send_and_lose_the_answer)
    await writer.append(topic, 0, _records(b"a", b"b"))
    await writer.append(topic, 0, _records(b"c"))
    assert lost == 0
    assert await _values(kafka, topic) == [b"a", b"b", b"c"]
    assert writer.end_offset(topic, 0) == (await end_offsets(kafka, topic))[0]


async def test_more_than_a_batch_holds_is_written_in_order(kafka: str, topic: str, new_owner: NewOwner) -> None:
    writer = await new_owner()
    values = [bytes([n]) * (BATCH_BYTES // 5) for n in range(12)]
    await writer.append(topic, 0, _records(*values))
    assert await _values(kafka, topic) == values
    assert writer.end_offset(topic, 0) == 13
