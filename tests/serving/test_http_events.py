"""`POST /v1/events`: what is accepted is in Kafka as it was sent, and each event that is not says why."""

import asyncio
import gzip
import json
import time

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.partitioner import DefaultPartitioner
from http_servers import Server, until

from persona_stream.serving.event_body import split_events
from persona_stream.serving.problem import ProblemError
from persona_stream.serving.schemas import MAX_EVENTS
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import MAX_EVENT_BYTES, Topics

ODD_SPACING = b'{"id": "e1",  "type":"click" ,"user":"u1","item":"i9", "ts": 1700000000000, "value": 1.50}'


def event(number: int, **fields: object) -> bytes:
    known = {"id": f"e{number}", "type": "click", "user": f"u{number % 7}", "item": "i1", "ts": 1_700_000_000_000}
    return json.dumps(known | fields).encode()


async def published(settings: Settings) -> list[ConsumerRecord]:
    consumer = AIOKafkaConsumer(auto_offset_reset="earliest", **settings.kafka_client())
    await consumer.start()
    try:
        places = [TopicPartition(Topics(settings.namespace).events, p) for p in range(settings.partitions)]
        consumer.assign(places)
        count = sum((await consumer.end_offsets(places)).values())
        records: list[ConsumerRecord] = []
        while len(records) < count:
            for found in (await consumer.getmany(timeout_ms=500)).values():
                records += found
        return records
    finally:
        await consumer.stop()


async def test_events_arrive_as_they_were_sent_keyed_by_user(server: Server, settings: Settings) -> None:
    pretty = json.dumps(json.loads(event(5)), indent=2).encode()
    bodies = [
        (ODD_SPACING, "application/json", 1),
        (b"[" + event(1) + b" ,\n " + event(2) + b"]", "application/json", 2),
        (event(3) + b"\n\n" + event(4) + b"\r\n", "application/x-ndjson", 2),
        (pretty, "application/x-www-form-urlencoded", 1),
        (event(6) + b"\n" + event(7), "text/plain;charset=UTF-8", 2),
        (b"[]", "application/json", 0),
    ]
    for body, content_type, count in bodies:
        response = await server.post("/v1/events", body, headers={"Content-Type": content_type})
        assert (response.status, await response.json()) == (202, {"accepted": count, "rejected": []}), body
    records = await published(settings)
    expected = [ODD_SPACING, pretty, *(event(n) for n in (1, 2, 3, 4, 6, 7))]
    assert sorted(record.value for record in records) == sorted(expected)
    partitions = list(range(settings.partitions))
    for record in records:
        assert record.key == json.loads(record.value)["user"].encode()
        # Where any other producer of Kafka would have put it.
        assert record.partition == DefaultPartitioner()(record.key, partitions, partitions)


async def test_each_event_is_judged_by_itself(server: Server, settings: Settings) -> None:
    ahead = int(time.time() * 1000) + settings.max_future_skew_ms + 60_000
    bad = [
        (b"{nope}", "bad_json"),
        (b'"text"', "bad_shape"),
        (event(1, user=None), "bad_field"),
        (event(1, colour="red"), "unknown_field"),
        (b'{"id": "e1", "type": "click"}', "missing_field"),
        (event(1, ts="yesterday"), "bad_ts"),
        (event(1, ts=ahead), "future_ts"),
        (event(1, item=None), "missing_item"),
        (event(1, context={"x": "y" * MAX_EVENT_BYTES}), "too_large"),
        (b'{"id": "\xff"}', "bad_encoding"),
    ]
    lines = [line for number, (raw, _) in enumerate(bad) for line in (event(number), raw)]
    response = await server.post("/v1/events", b"\n".join(lines), headers={"Content-Type": "application/x-ndjson"})
    answer = await response.json()
    assert (response.status, answer["accepted"]) == (202, len(bad))
    assert [(one["index"], one["code"]) for one in answer["rejected"]] == [
        (2 * number + 1, code) for number, (_, code) in enumerate(bad)
    ]
    assert all(one["detail"] for one in answer["rejected"])
    assert len(await published(settings)) == len(bad)


async def test_requests_at_once_share_batches_and_lose_nothing(server: Server, settings: Settings) -> None:
    responses = await asyncio.gather(*(server.post("/v1/events", event(number)) for number in range(300)))
    assert {response.status for response in responses} == {202}
    records = await published(settings)
    assert sorted(record.value for record in records) == sorted(event(number) for number in range(300))


async def test_a_large_array_is_taken_whole_and_in_order(server: Server, settings: Settings) -> None:
    body = b"[" + b",".join(event(number) for number in range(MAX_EVENTS)) + b"]"
    packed = gzip.compress(body, 1)
    response = await server.post("/v1/events", packed, headers={"Content-Encoding": "gzip"})
    assert (response.status, await response.json()) == (202, {"accepted": MAX_EVENTS, "rejected": []})
    by_user: dict[bytes, list[int]] = {}
    for record in await published(settings):
        by_user.setdefault(record.key, []).append(int(json.loads(record.value)["id"][1:]))
    assert sum(map(len, by_user.values())) == MAX_EVENTS
    assert all(numbers == sorted(numbers) for numbers in by_user.values())


async def test_state_that_lags_is_told_and_can_be_refused(server: Server) -> None:
    # No worker folds this event, so every answer is older than it from now on.
    await server.post("/v1/events", event(1))

    async def lags() -> bool:
        return (await server.get("/v1/trending")).headers["X-Persona-Lag-Events"] == "1"

    await until(lags)
    refused = await server.get("/v1/trending?max_lag_ms=0")
    problem = await refused.json(content_type="application/problem+json")
    assert (refused.status, problem["code"], refused.headers["Retry-After"]) == (503, "stale-state", "1")
    assert int(refused.headers["X-Persona-State-Age-Ms"]) > 0
    assert (await server.post("/v1/rank", {"user": "u", "items": ["a"]})).status == 200
    assert (await server.post("/v1/rank?max_lag_ms=0", {"user": "u", "items": ["a"]})).status == 503


@pytest.mark.parametrize(
    ("body", "raws"),
    [
        (b' {"a": 1} ', [b'{"a": 1}']),
        (b'{"a":\n1}', [b'{"a":\n1}']),
        (b'[{"a": 1}, 7]', [b'{"a": 1}', b"7"]),
        (b'{"a": 1}\n{"b"\n', [b'{"a": 1}', b'{"b"']),
        (b'\n{"a": 1}\r\n\r\n{"b": 2}', [b'{"a": 1}', b'{"b": 2}']),
    ],
)
def test_a_body_is_split_into_raw_events(body: bytes, raws: list[bytes]) -> None:
    assert split_events(body, ndjson=False) == raws


def test_a_broken_first_line_is_not_taken_for_ndjson() -> None:
    with pytest.raises(ProblemError, match="malformed"):
        split_events(b'{"a" 1}\n{"b": 2}', ndjson=False)
    assert split_events(b'{"a" 1}\n{"b": 2}', ndjson=True) == [b'{"a" 1}', b'{"b": 2}']
