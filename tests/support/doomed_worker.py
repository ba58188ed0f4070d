"""A real worker that meets its fate at a chosen point: ``python -m support.doomed_worker FATE before|after TOPIC``.

FATE is a signal's name, or HANG: the write never returns. Signalled from outside, a worker is hit wherever the clock
has it; here it meets its fate just before or just after it has written to a topic for the third time, so that each
gap between two writes of a slice is hit by design.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from persona_stream.kafka.fenced_writer import FencedWriter
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.worker import app
from persona_stream.worker.run import run_worker

WRITES_UNHARMED = 2
HANG = "HANG"


class _Fate:
    """Counts the writes to the chosen topic."""

    name, moment, topic = sys.argv[1:4]
    unharmed = 0

    async def comes(self, moment: str, topic: str) -> None:
        if topic != self.topic or moment != self.moment:
            return
        if self.unharmed >= WRITES_UNHARMED and self.name == HANG:
            await asyncio.Event().wait()
        if self.unharmed == WRITES_UNHARMED:
            os.kill(os.getpid(), signal.Signals[self.name])
        self.unharmed += 1


class _DoomedWriter(BatchWriter):
    async def write(self, topic: str, parts: dict[int, list[Record]]) -> None:
        await fate.comes("before", topic)
        await super().write(topic, parts)
        await fate.comes("after", topic)


class _DoomedFencedWriter(FencedWriter):
    async def append(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        await fate.comes("before", topic)
        await super().append(topic, partition, records)
        await fate.comes("after", topic)


if __name__ == "__main__":
    fate = _Fate()
    app.BatchWriter = _DoomedWriter  # type: ignore[misc]  # the fault is put in where the app looks
    app.FencedWriter = _DoomedFencedWriter  # type: ignore[misc]  # the fault is put in where the app looks
    run_worker(Settings.load())
