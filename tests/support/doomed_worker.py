"""A real worker that is killed at a chosen point: ``python -m support.doomed_worker before|after TOPIC``.

Killed from outside, a worker dies wherever the clock has it; here it sends itself SIGKILL just before or just after
it has written to a topic for the third time, so that each gap between two writes of a slice is hit by design.
"""

import os
import signal
import sys

from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.worker import app
from persona_stream.worker.run import run_worker

WRITES_SURVIVED = 2


class _DoomedWriter(BatchWriter):
    """Writes as ever, until the point of death."""

    moment, topic = sys.argv[1:3]
    survived = 0

    async def write(self, topic: str, parts: dict[int, list[Record]]) -> None:
        if topic != self.topic:
            await super().write(topic, parts)
            return
        is_last = self.survived == WRITES_SURVIVED
        self.survived += 1
        if is_last and self.moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await super().write(topic, parts)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    app.BatchWriter = _DoomedWriter  # type: ignore[misc]
    run_worker(Settings.load())
