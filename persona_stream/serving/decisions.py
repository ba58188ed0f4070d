"""The log of decisions: what was answered and why, written to `decisions.v1` off the request's way."""

import asyncio
import logging
from collections.abc import Callable

from aiokafka.errors import KafkaError

from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Decision, ShownRows, encode, encode_json
from persona_stream.vocabulary.topics import Topics

QUEUE_DECISIONS = 10_000
"""About 60 MB, more with long lists of items: while Kafka is away, decisions beyond this are dropped and counted."""
RETRY_S = 1.0
LINGER_S = 0.05
"""Decisions are gathered for this long before they are written."""

logger = logging.getLogger(__name__)


class DecisionLog:
    """Writes decisions by the batch. An answer never waits for it; what can't be kept is counted in `dropped`."""

    def __init__(
        self, settings: Settings, writer: BatchWriter, on_failure: Callable[[BaseException], None] | None = None
    ) -> None:
        """`on_failure` is told of writes that failed: an idempotent producer may have to be made anew."""
        self._on_failure = on_failure
        self._warned = False
        self._topics = Topics(settings.namespace)
        self._writer = writer
        self._pending: list[Decision] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        self.written = 0

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what is pending, once, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._pending:
            await self._flush()

    def add(self, decision: Decision) -> None:
        """Log a decision."""
        if len(self._pending) >= QUEUE_DECISIONS:
            self.dropped += 1
            return
        self._pending.append(decision)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            # A write for each answer would cost about as much as making it.
            await asyncio.sleep(LINGER_S)
            self._wake.clear()
            if not await self._flush():
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _flush(self) -> bool:
        batch, self._pending = self._pending, []
        try:
            await self._writer.write_keyed(self._topics.decisions, list(map(_logged, batch)))
            # What was shown may be chosen from: the stream joins these rows with what comes of them.
            await self._writer.write_keyed(self._topics.shown, [_rows(one) for one in batch if one.items])
        except (KafkaError, RuntimeError) as error:
            if not self._warned:
                logger.warning("decisions wait for Kafka, at most %d of them: %r", QUEUE_DECISIONS, error)
            self._warned = True
            if self._on_failure is not None:
                self._on_failure(error)
            room = QUEUE_DECISIONS - len(self._pending)
            self.dropped += max(0, len(batch) - room)
            self._pending = batch[:room] + self._pending
            return False
        except asyncio.CancelledError:
            # The write may be under way: written twice is better than not at all, readers know decisions by id.
            self._pending = batch + self._pending
            raise
        self._warned = False
        self.written += len(batch)
        return True


def _logged(decision: Decision) -> Record:
    return Record(decision.user.encode(), encode_json(decision))


def _rows(decision: Decision) -> Record:
    rows = ShownRows(
        user=decision.user,
        group=decision.id,
        ts_ms=decision.as_of_ms,
        source_partition=-1,
        source_offset=-1,
        feature_hash=decision.feature_hash,
        items=decision.items,
        features=decision.features,
        is_whole=True,
        propensities=decision.propensities,
    )
    return Record(decision.user.encode(), encode(rows))
