"""The catalogue's attributes in a worker: features of the stream compare items that are all over the partitions.

Every worker reads the whole changelog of the table `catalogue`, as servers do, before its agents start, and follows it
from then on. What an example says of attributes is what the worker held when it folded the event.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from persona_stream.kafka.reader import free_consumer
from persona_stream.stream.partition import SYSTEM_KEYS
from persona_stream.vocabulary.config import Settings
from tables import catalogue
from tables.features.attributes import AttributeColumns

IDLE_MS = 500
FETCH_BYTES = 1024 * 1024

logger = logging.getLogger(__name__)


class AttributeFeed:
    """Keeps attribute columns as the catalogue's changelog has them."""

    def __init__(
        self, settings: Settings, attributes: AttributeColumns, changelog: str, on_error: Callable[[Exception], None]
    ) -> None:
        """`on_error` is told why following ended."""
        self._settings = settings
        self._attributes = attributes
        self._changelog = changelog
        self._on_error = on_error
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what is there by now, and follow from then on. Raises aiokafka's errors where no broker answers."""
        if not self._attributes.needs.any():
            return
        consumer = self._consumer = free_consumer(
            self._settings, auto_offset_reset="earliest", max_partition_fetch_bytes=FETCH_BYTES
        )
        await consumer.start()
        assigned = [TopicPartition(self._changelog, number) for number in range(self._settings.partitions)]
        consumer.assign(assigned)
        await consumer.seek_to_beginning(*assigned)
        ends = await consumer.end_offsets(assigned)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            await self._apply_next(consumer)
        self._task = asyncio.create_task(self._follow(consumer))

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.stop()

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        try:
            while True:
                await self._apply_next(consumer)
        except Exception as error:
            logger.exception("the catalogue can't be followed")
            self._on_error(error)

    async def _apply_next(self, consumer: AIOKafkaConsumer) -> None:
        for records in (await consumer.getmany(timeout_ms=IDLE_MS)).values():
            self._apply(records)

    def _apply(self, records: Sequence[ConsumerRecord]) -> None:
        for record in records:
            if record.key not in SYSTEM_KEYS:
                held = catalogue.codec.decode(record.value).attributes if record.value else {}
                self._attributes.put(record.key.decode(), held)
