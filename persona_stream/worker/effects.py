"""Writing what folds give rise to, in order, while the next slices are folded."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from agents.emissions import Emissions
from persona_stream.kafka.fenced_writer import FencedWriter
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary import metrics

WAITING_SLICES = 2
"""Folding runs ahead of writing by at most this many slices: memory stays bounded, and both are kept busy."""

logger = logging.getLogger(__name__)

Crash = Callable[[BaseException], Awaitable[None]]


def describe(part: Slice) -> str:
    """Which records a slice holds."""
    return f"{part.topic}/{part.partition} offsets {part.first_offset} to {part.last_offset}"


class Effects:
    """The effects of one agent's slices, written one slice after the other.

    What a slice gives rise to elsewhere is in Kafka before the changes of its table: a crash in between repeats what
    others skip by offset, where the other order would lose it. A slice is `applied` when both are in Kafka.
    """

    def __init__(self, writer: BatchWriter, changelogs: FencedWriter, table: str, changelog: str, crash: Crash) -> None:
        self._writer = writer
        self._changelogs = changelogs
        self._table = table
        self._changelog = changelog
        self._crash = crash
        self._queue: asyncio.Queue[tuple[Slice, Emissions, list[Record], Partition[Any]]] = asyncio.Queue(
            WAITING_SLICES
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop at once: what was not written is delivered again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def submit(self, part: Slice, out: Emissions, changes: list[Record], state: Partition[Any]) -> None:
        """Have a folded slice's effects written, `state`'s changes among them; waits while too many are waiting."""
        part.effects = asyncio.get_running_loop().create_future()
        await self._queue.put((part, out, changes, state))

    async def _run(self) -> None:
        while True:
            part, out, changes, state = await self._queue.get()
            started_s = perf_counter()
            try:
                for topic, records in out.by_topic.items():
                    await self._writer.write_keyed(topic, records)
                await self._changelogs.append(self._changelog, part.partition, changes)
                state.acknowledged(changes, self._changelogs.end_offset(self._changelog, part.partition))
            except Exception as error:
                logger.exception("the effects of %s could not be written", describe(part))
                await self._crash(error)
                return
            finally:
                if part.effects is not None:
                    part.effects.set_result(None)
            part.applied = True
            metrics.WRITE_SECONDS.labels(self._table).inc(perf_counter() - started_s)
