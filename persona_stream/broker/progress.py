"""What a first start reports while it takes its time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """One step forward of a broker that is starting.

    `stage` is `install` (jars are downloaded: `done_bytes` of `total_bytes`), `format` (the data folder is
    prepared, first start only) or `start` (the Java process runs and does not answer yet).
    """

    stage: Literal["install", "format", "start"]
    done_bytes: int = 0
    total_bytes: int = 0


OnProgress: TypeAlias = Callable[[Progress], None]
"""Called with each step, possibly from a download thread, but never by two threads at once."""


def ignore_progress(_: Progress) -> None:
    """Report to nobody."""
