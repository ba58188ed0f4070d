"""The server's connection to Kafka, made in the background and made again: requests are answered meanwhile."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog

from persona_stream.kafka.writer import BatchWriter
from persona_stream.serving.live_replica import LiveReplica
from persona_stream.vocabulary.errors import ConfigError, GenerationError

FIRST_RETRY_S = 0.25
LONGEST_RETRY_S = 5.0
CHECK_S = 0.5
"""How often it is looked whether the replica still reads."""
STOP_S = 2.0
"""A producer that waits for a broker which is gone would wait for ever."""

_log = structlog.get_logger(__name__)


class KafkaLink:
    """Keeps the replica reading and the writer writing, whatever Kafka does."""

    def __init__(self, replica: LiveReplica, writer: BatchWriter, written: Sequence[str]) -> None:
        """`written`: the topics that are going to be written to."""
        self._replica = replica
        self._writer = writer
        self._written = written
        self._reading = False
        self._broken = asyncio.Event()
        self._ever_connected = False
        self.writable = False
        """Whether the writer is connected (Kafka may be away for the moment: then a write waits)."""
        self.error = "not connected yet"
        """Why it is not connected; empty while it is."""

    def writer_failed(self, error: BaseException) -> None:
        """A write failed: after that an idempotent producer may refuse every further one, so it is made anew."""
        self.writable = False
        self.error = repr(error)
        self._broken.set()

    async def run(self) -> None:
        """Connect, and connect again whenever that is needed, until cancelled.

        Raises ConfigError, GenerationError, or aiokafka's ValueError, if the settings turn out wrong before it was ever
        connected.
        """
        retry_s = FIRST_RETRY_S
        while True:
            try:
                await self._connect()
            except Exception as error:
                # A server that has answered goes on answering, whatever becomes of the cluster.
                if isinstance(error, ConfigError | GenerationError | ValueError) and not self._ever_connected:
                    raise
                self._note(repr(error))
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
            else:
                await self._until_broken()
                retry_s = FIRST_RETRY_S

    async def stop(self) -> None:
        """Disconnect; what was not sent within a few seconds is given up."""
        self.writable = False
        await _stopped(self._writer, "writer")
        await _stopped(self._replica, "replica")

    def _note(self, error: str) -> None:
        # Said once, not at every try of an outage that may last for hours.
        if error != self.error:
            _log.warning("Kafka can't be reached; trying again until it can", error=error)
        self.error = error

    async def _connect(self) -> None:
        if not self._reading:
            # It also creates the topics, without which the writer would guess their partitions.
            await _stopped(self._replica, "replica")
            await self._replica.start()
            self._reading = True
        if not self.writable:
            await _stopped(self._writer, "writer")
            await self._writer.start()
            for topic in self._written:
                # Asked for now, or the first event would wait for it.
                await self._writer.partitioner(topic)
            self._broken.clear()
            self.writable = True
        self._ever_connected = True
        self.error = ""
        _log.info("connected to Kafka")

    async def _until_broken(self) -> None:
        while not self._broken.is_set() and self._replica.error is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._broken.wait(), CHECK_S)
        if self._replica.error is not None:
            self._reading = False
            self.error = f"the replica stopped reading: {self._replica.error!r}"
        _log.warning("the connection to Kafka is lost", error=self.error)


async def _stopped(part: LiveReplica | BatchWriter, name: str) -> None:
    # A task of its own: aiokafka's clients may end their stop() with the CancelledError of one of their own tasks.
    stopping = asyncio.create_task(part.stop())
    await asyncio.wait([stopping], timeout=STOP_S)
    if not stopping.done():
        stopping.cancel()
        _log.warning("did not disconnect in time", part=name, seconds=STOP_S)
    elif stopping.cancelled() or stopping.exception() is not None:
        _log.warning("did not disconnect cleanly", part=name)
