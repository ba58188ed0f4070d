"""Group commit: events of all requests that arrive while Kafka takes a batch go out together as the next one.

A lone event waits for nothing but Kafka; a thousand clients share one produce request a partition.
"""

import asyncio
import time
from collections import deque

import structlog
from msgspec import Struct

from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.serving.kafka_link import KafkaLink
from persona_stream.serving.problem import ProblemError, retry_later

ACK_TIMEOUT_S = 5.0
"""A request that Kafka has not acknowledged by then is told to come again; its event ids make that safe."""
COMMIT_BYTES = 4 * 1024 * 1024
"""About what one batch may hold: it takes some tens of milliseconds."""
WAITING_BYTES = 64 * 1024 * 1024
"""What may wait in memory; beyond it requests are refused."""
_RETRY_AFTER_S = 1

_log = structlog.get_logger(__name__)


class _Waiting(Struct, gc=False):
    records: list[Record]
    size_bytes: int
    acknowledged: "asyncio.Future[None]"


class EventQueue:
    """Publishes records to one topic in the order they came; one task writes, everyone waits for its own."""

    def __init__(self, writer: BatchWriter, topic: str, link: KafkaLink) -> None:
        self._writer = writer
        self._topic = topic
        self._link = link
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._writing_since_s: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="event-queue")

    async def stop(self) -> None:
        """Stop writing; whoever still waits is told to come again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._waiting:
            self._fail(self._waiting.popleft(), _unavailable("The server is stopping"))

    async def publish(self, records: list[Record]) -> None:
        """Return when Kafka has `records`. Raises ProblemError `kafka-unavailable` or `overloaded`.

        After `kafka-unavailable` Kafka may still get them: sending them again under the same ids changes nothing.
        """
        self._check_writable()
        size_bytes = sum(len(record.value or b"") for record in records)
        if self._waiting_bytes + size_bytes > WAITING_BYTES:
            raise retry_later("overloaded", f"{self._waiting_bytes} bytes wait already.", after_s=_RETRY_AFTER_S)
        acknowledged = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(records, size_bytes, acknowledged))
        self._waiting_bytes += size_bytes
        self._wake.set()
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await acknowledged
        except TimeoutError:
            raise _unavailable(f"No acknowledgement within {ACK_TIMEOUT_S:g} s") from None

    def _check_writable(self) -> None:
        if not self._link.writable:
            raise _unavailable("The server has no connection to Kafka")
        since_s = self._writing_since_s
        if since_s is not None and time.monotonic() - since_s > ACK_TIMEOUT_S:
            raise _unavailable(f"No acknowledgement since {time.monotonic() - since_s:.0f} s")

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while group := self._take():
                await self._commit(group)

    def _take(self) -> list[_Waiting]:
        """The next batch's requests, without those that gave up waiting."""
        group: list[_Waiting] = []
        size_bytes = 0
        while self._waiting and size_bytes < COMMIT_BYTES:
            waiting = self._waiting.popleft()
            self._waiting_bytes -= waiting.size_bytes
            if not waiting.acknowledged.done():
                group.append(waiting)
                size_bytes += waiting.size_bytes
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        records = group[0].records if len(group) == 1 else [record for waiting in group for record in waiting.records]
        self._writing_since_s = time.monotonic()
        try:
            await self._writer.write_keyed(self._topic, records)
        except Exception as error:
            # Whatever it was, the next batch must have its turn.
            _log.error("events could not be published", events=len(records), error=repr(error))
            self._link.writer_failed(error)
            for waiting in group:
                self._fail(waiting, _unavailable(type(error).__name__))
        except asyncio.CancelledError:
            for waiting in group:
                self._fail(waiting, _unavailable("The server is stopping"))
            raise
        else:
            for waiting in group:
                if not waiting.acknowledged.done():
                    waiting.acknowledged.set_result(None)
        finally:
            self._writing_since_s = None

    @staticmethod
    def _fail(waiting: _Waiting, problem: ProblemError) -> None:
        if not waiting.acknowledged.done():
            waiting.acknowledged.set_exception(problem)


def _unavailable(why: str) -> ProblemError:
    advice = "Send the same events again, with the same ids: one that Kafka got already counts once."
    return retry_later("kafka-unavailable", f"{why}. {advice}", after_s=_RETRY_AFTER_S)
