"""What an agent writes besides its table: records by topic, dead letters and late events with their origin."""

from collections import Counter

from persona_stream.kafka.writer import Record
from persona_stream.stream.slices import KafkaRecord, Slice
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.topics import Topics

REASON, KEY, MESSAGE = "persona.reason", "persona.key", "__streams.errors.message"
"""Headers of what was put aside: why, the record's key, and why in words."""
FORWARDED = "persona.forwarded"
"""Header of a record sent on to its key's partition: `partition/offset` it came from."""


def forwarded_from(record: KafkaRecord) -> tuple[int, int] | None:
    """Partition and offset that a record was sent on from, None if it was published where it is."""
    for name, value in record.headers:
        if name == FORWARDED:
            partition, _, offset = value.partition(b"/")
            if partition.isdigit() and offset.isdigit():
                return int(partition), int(offset)
    return None


class Emissions:
    """Collects what a slice gives rise to. The worker writes it before the table's changes: see ADR 0002."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.by_topic: dict[str, list[Record]] = {}
        self.outcomes: Counter[str] = Counter()
        self.dead_by_reason: Counter[str] = Counter()

    def emit(self, topic: str, key: str, value: bytes) -> None:
        """A record for another topic, keyed."""
        self.by_topic.setdefault(topic, []).append(Record(key.encode(), value))

    def emit_all(self, topic: str, records: list[Record]) -> None:
        """Records for another topic, keyed, in their order."""
        if records:
            self.by_topic.setdefault(topic, []).extend(records)

    def forward(self, part: Slice, record: KafkaRecord) -> None:
        """The record as it is, for the partition of the same topic that its key belongs to."""
        assert record.key is not None
        headers = [*record.headers, (FORWARDED, f"{part.partition}/{record.offset}".encode())]
        self.by_topic.setdefault(part.topic, []).append(Record(record.key, record.value, headers))

    def dead_letter(self, part: Slice, record: KafkaRecord, error: EventError) -> None:
        """Raw bytes, reason and origin of what can't be used (header names of KIP-1034)."""
        self.dead_by_reason[error.reason] += 1
        self._put_aside(self.topics.deadletter, part, record, error.reason, error.message)

    def late(self, part: Slice, record: KafkaRecord, behind_ms: int) -> None:
        """An event too far behind its partition's watermark."""
        self.outcomes["late"] += 1
        message = f"{behind_ms / 1000:.0f} s behind the watermark of its partition"
        self._put_aside(self.topics.late, part, record, "late", message)

    def _put_aside(self, topic: str, part: Slice, record: KafkaRecord, reason: str, message: str) -> None:
        origin = f"{part.topic}/{part.partition}/{record.offset}"
        headers = [
            # Without where it was sent on from: published again, it is a new record.
            *(header for header in record.headers if header[0] != FORWARDED),
            (REASON, reason.encode()),
            (KEY, record.key or b""),
            ("__streams.errors.exception", b"EventError"),
            (MESSAGE, message.encode()),
            ("__streams.errors.topic", part.topic.encode()),
            ("__streams.errors.partition", str(part.partition).encode()),
            ("__streams.errors.offset", str(record.offset).encode()),
        ]
        # The origin as key: a redelivery writes the same key again, so readers and compaction see it once.
        self.by_topic.setdefault(topic, []).append(Record(origin.encode(), record.value or b"", headers))
