"""Publishing JSON lines: each is checked by the stream's own parser and written keyed as the contract says.

A line that breaks the contract is reported with its number and reason, and not published.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct, field

from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import parse_event, parse_item, parse_profile
from persona_stream.vocabulary.topics import Topics

CHUNK_LINES = 5_000
"""Lines between two waits for Kafka: some milliseconds of waiting in some tens of work."""
FIRST_REJECTS = 20


class Kind(Struct, frozen=True):
    """What a line holds: how it is checked, and which field is its key."""

    name: str
    parse: Callable[[bytes], Any]
    """Raises EventError where the line breaks the contract."""
    key_field: str

    def topic(self, topics: Topics) -> str:
        """The topic that this kind is published to."""
        name: str = getattr(topics, self.name)
        return name


EVENTS = Kind("events", parse_event, "user")
ITEMS = Kind("items", parse_item, "id")
PROFILES = Kind("profiles", parse_profile, "user")
KINDS = {kind.name: kind for kind in (EVENTS, ITEMS, PROFILES)}


class Reject(Struct, frozen=True):
    """A line that was not published, and why."""

    line: int
    reason: str
    detail: str
    raw: bytes


class PublishReport(Struct):
    """What became of the lines so far. `read_bytes` counts line ends as one byte."""

    lines: int = 0
    published: int = 0
    read_bytes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """Lines by reason."""
    first_rejects: list[Reject] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)
    elapsed_s: float = 0.0

    @property
    def rejected_total(self) -> int:
        """Lines that were not published."""
        return self.rejected.total()

    @property
    def lines_per_s(self) -> float:
        """The rate over the whole run."""
        return self.lines / self.elapsed_s if self.elapsed_s else 0.0


class Publisher:
    """Takes lines chunk by chunk; `report` says what became of them. Blank lines are passed over."""

    def __init__(
        self,
        writer: BatchWriter,
        topic: str,
        *,
        kind: Kind = EVENTS,
        on_reject: Callable[[Reject], None] | None = None,
    ) -> None:
        """Publish to `topic`, which must exist, through `writer`, which must have been started."""
        self._writer = writer
        self._topic = topic
        self._kind = kind
        self._on_reject = on_reject
        self.report = PublishReport()

    async def take(self, lines: Sequence[bytes]) -> None:
        """Check `lines`, publish the good ones, return when Kafka has them. Raises what aiokafka raises."""
        records = self._records(lines)
        if records:
            await self._writer.write_keyed(self._topic, records)
        report = self.report
        report.published += len(records)
        report.elapsed_s = time.monotonic() - report.started_s

    def _records(self, lines: Sequence[bytes]) -> list[Record]:
        key_field = self._kind.key_field
        return [
            Record(getattr(parsed, key_field).encode(), value)
            for parsed, value in checked(lines, self._kind, self.report, self._on_reject)
        ]


def checked(
    lines: Sequence[bytes], kind: Kind, report: PublishReport, on_reject: Callable[[Reject], None] | None = None
) -> Iterator[tuple[Any, bytes]]:
    """Of each good line what it was parsed to, and its bytes; `report` counts all, and keeps the first rejects."""
    first = report.lines + 1
    report.lines += len(lines)
    for number, line in enumerate(lines, first):
        report.read_bytes += len(line)
        value = line.strip()
        if not value:
            continue
        try:
            yield kind.parse(value), value
        except EventError as error:
            note_reject(Reject(number, error.reason, error.message, value), report, on_reject)


def note_reject(reject: Reject, report: PublishReport, on_reject: Callable[[Reject], None] | None = None) -> None:
    """Count a reject; the first ones are kept."""
    report.rejected[reject.reason] += 1
    if len(report.first_rejects) < FIRST_REJECTS:
        report.first_rejects.append(reject)
    if on_reject is not None:
        on_reject(reject)


async def publish_lines(
    lines: Iterable[bytes],
    writer: BatchWriter,
    topic: str,
    on_progress: Callable[[PublishReport], None] | None = None,
    *,
    kind: Kind = EVENTS,
    on_reject: Callable[[Reject], None] | None = None,
) -> PublishReport:
    """Publish every good line of `lines` to `topic`, in order; `writer` must have been started.

    `on_progress` is called after each chunk of CHUNK_LINES. Raises what aiokafka raises; what was reported
    before that is in Kafka.
    """
    publisher = Publisher(writer, topic, kind=kind, on_reject=on_reject)
    remaining = iter(lines)
    while chunk := list(itertools.islice(remaining, CHUNK_LINES)):
        await publisher.take(chunk)
        if on_progress is not None:
            on_progress(publisher.report)
    return publisher.report
