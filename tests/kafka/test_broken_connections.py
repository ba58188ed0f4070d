"""A connection that broke between two requests is told as broken, on the event loop that all processes run on."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

import persona_stream.kafka  # noqa: F401  # importing it mends connections

NewLoop = Callable[[], asyncio.AbstractEventLoop]


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_request_on_a_connection_that_broke_meanwhile_is_refused_as_broken(kafka: str, new_loop: NewLoop) -> None:
    host, port = kafka.split(":")

    async def ask_twice() -> None:
        connection: AIOKafkaConnection = await create_conn(host, int(port), request_timeout_ms=10_000)
        assert (await connection.send(MetadataRequest([]))).brokers
        connection._writer.transport.abort()
        # The transport is closed now, and whoever reads from it is not awake yet.
        await asyncio.sleep(0)
        with pytest.raises(KafkaConnectionError):
            await connection.send(MetadataRequest([]))
        assert not connection.connected()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(ask_twice())
