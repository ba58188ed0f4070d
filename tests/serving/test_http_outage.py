"""Law 6 over HTTP: with Kafka not there yet, gone or back, rankings are answered and events are refused honestly."""

import json
import time
from pathlib import Path

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from http_servers import Server, free_port, serving, settings_for, until

from persona_stream.broker import EmbeddedBroker
from persona_stream.kafka.admin import ensure_topics
from persona_stream.serving.event_queue import ACK_TIMEOUT_S
from persona_stream.serving.problem import ProblemError
from persona_stream.serving.state import ServerState
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.topics import Topics

RANK = {"user": "u1", "items": ["b", "a"]}


def event(number: int) -> bytes:
    return json.dumps({"id": f"e{number}", "type": "session_start", "user": "u1", "ts": 1_700_000_000_000}).encode()


async def assert_ranks(server: Server) -> None:
    response = await server.post("/v1/rank", RANK)
    assert (response.status, [item["item"] for item in (await response.json())["items"]]) == (200, RANK["items"])


async def assert_refuses_events(server: Server, within_s: float) -> None:
    asked_s = time.monotonic()
    response = await server.post("/v1/events", event(0))
    problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["code"], response.headers["Retry-After"]) == (503, "kafka-unavailable", "1")
    assert time.monotonic() - asked_s < within_s


async def test_a_server_outlives_kafka(tmp_path: Path, jar_cache: Path) -> None:
    port = free_port()
    broker = EmbeddedBroker(tmp_path / "broker", port=port, cache_dir=jar_cache)
    async with serving(settings_for(f"127.0.0.1:{port}", tmp_path)) as server:
        await assert_ranks(server)
        await assert_refuses_events(server, within_s=1.0)
        held = await (await server.get("/readyz?verbose")).json()
        assert not held["ready"]
        assert held["kafka"] != "connected"
        try:
            assert broker.start() == f"127.0.0.1:{port}"
            await server.until_ready()
            await until(lambda: accepts_events(server))
            broker.stop()
            await assert_ranks(server)
            await assert_refuses_events(server, within_s=ACK_TIMEOUT_S + 2.0)
            await assert_refuses_events(server, within_s=1.0)
            await assert_ranks(server)
            assert broker.start() == f"127.0.0.1:{port}"
            await until(lambda: accepts_events(server))
            await assert_ranks(server)
        finally:
            broker.stop()


async def accepts_events(server: Server) -> bool:
    return (await server.post("/v1/events", event(1))).status == 202


async def test_settings_that_do_not_fit_the_topics_end_the_server(kafka: str, tmp_path: Path) -> None:
    settings = settings_for(kafka, tmp_path)
    await ensure_topics(settings)
    state = ServerState(msgspec.structs.replace(settings, partitions=settings.partitions + 1))
    with pytest.raises(ConfigError, match="4 partitions, but 5 are configured"):
        await state.link.run()
    with pytest.raises(ProblemError, match="no connection to Kafka"):
        await state.events.publish([])


async def test_a_write_that_kafka_refuses_does_not_block_the_next(server: Server) -> None:
    # An idempotent producer counts the refused record too: Kafka would miss it, and take no more from that producer.
    assert await accepts_events(server)
    await limit_records(server.state.settings, max_bytes=1000)
    large = json.dumps({**json.loads(event(1)), "context": {"text": "x" * 5000}}).encode()

    async def refused() -> bool:
        # The broker says that the limit is set some time before it holds the records to it.
        response = await server.post("/v1/events", large)
        return response.status != 202 and (await response.json(content_type=None))["code"] == "kafka-unavailable"

    await until(refused)
    await until(lambda: accepts_events(server))


async def limit_records(settings: Settings, *, max_bytes: int) -> None:
    topic = Topics(settings.namespace).events
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        limits = {"max.message.bytes": str(max_bytes), "message.timestamp.type": "LogAppendTime"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=limits)])
    finally:
        await admin.close()
