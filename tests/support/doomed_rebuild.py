"""`persona-stream rebuild` that is killed in the middle of writing: ``python -m support.doomed_rebuild``."""

import os
import signal
from collections.abc import Sequence

from persona_stream.cli.rebuild_command import RebuildOptions, run_rebuild
from persona_stream.kafka.fenced_writer import FencedWriter
from persona_stream.kafka.writer import Record
from persona_stream.rebuild import writing
from persona_stream.vocabulary.config import Settings


class _DoomedWriter(FencedWriter):
    async def append(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        """Write one half, and no more."""
        await super().append(topic, partition, records[: len(records) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    writing.FencedWriter = _DoomedWriter  # type: ignore[misc]  # the fault is put in where the rebuild looks
    run_rebuild(Settings.load(), RebuildOptions())
