"""Dead letters: which are open, and publishing them again.

A letter's key is its origin, so one that was put aside twice counts once. What was published again is marked in the
same topic: a later record of the same key, with the header `persona.replayed` and no value.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from aiokafka import ConsumerRecord
from msgspec import Struct

from agents.emissions import KEY, MESSAGE, REASON
from models.topic_reader import read_topic
from persona_stream.cli.publish import KINDS
from persona_stream.kafka.writer import BatchWriter, Header, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError, PersonaError
from persona_stream.vocabulary.topics import Topics

REPLAYED = "persona.replayed"
_OWN_HEADERS = ("persona.", "__streams.errors.")
_REKEYED = frozenset({"missing_key", "key_mismatch"})


class Letter(Struct, frozen=True):
    """One record that was put aside. `place`: where the letter is, partition and offset."""

    origin: str
    """`topic/partition/offset` of the record."""
    reason: str
    message: str
    put_aside_ms: int
    place: tuple[int, int]

    @property
    def topic(self) -> str:
        """The topic that the record came from."""
        return self.origin.rsplit("/", 2)[0]


Pairs = list[tuple[Letter, ConsumerRecord]]


class Wanted(Struct, frozen=True):
    """Which letters are meant; empty and None mean any."""

    reasons: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None

    def matches(self, letter: Letter) -> bool:
        """Whether a letter is one of them. Times are half-open: since <= put aside < until."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.origins or letter.origin in self.origins)
            and (self.since_ms is None or letter.put_aside_ms >= self.since_ms)
            and (self.until_ms is None or letter.put_aside_ms < self.until_ms)
        )


class LetterError(PersonaError):
    """No such letter is open."""

    code = "dead-letter"


async def open_letters(settings: Settings, topic: str, wanted: Wanted) -> list[Letter]:
    """The letters that are wanted and were not published again, oldest first."""
    found: dict[str, Letter | None] = {}
    async for records in read_topic(settings, topic):
        for record in records:
            origin = (record.key or b"").decode(errors="replace")
            if header(record, REPLAYED):
                found[origin] = None
            elif origin not in found:
                found[origin] = _letter(origin, record)
    letters = [letter for letter in found.values() if letter is not None and wanted.matches(letter)]
    return sorted(letters, key=lambda letter: (letter.put_aside_ms, letter.origin))


async def contents(settings: Settings, topic: str, letters: Sequence[Letter]) -> AsyncIterator[Pairs]:
    """The records of letters, by the batch: memory holds no more than one."""
    places = {letter.place: letter for letter in letters}
    async for records in read_topic(settings, topic):
        pairs = [(places[at], r) for r in records if (at := (r.partition, r.offset)) in places]
        if pairs:
            yield pairs


class Replay:
    """Publishes letters to where they came from, and marks them. Order: publish, then mark.

    Killed in between, it publishes a letter again when it is run again; an event id that was seen changes nothing.
    """

    def __init__(self, settings: Settings, writer: BatchWriter, *, rekey: bool) -> None:
        self._topics = Topics(settings.namespace)
        self._writer = writer
        self._rekey = rekey

    async def publish(self, pairs: Pairs) -> None:
        """Publish a batch, and mark it."""
        by_topic: dict[str, list[Record]] = {}
        for letter, record in pairs:
            again = Record(self._key(letter, record), record.value, original_headers(record))
            by_topic.setdefault(letter.topic, []).append(again)
        for topic, records in by_topic.items():
            await self._writer.write_keyed(topic, records)
        marks = [Record(letter.origin.encode(), None, [(REPLAYED, b"1")]) for letter, _ in pairs]
        await self._writer.write_keyed(self._topics.deadletter, marks)

    def _key(self, letter: Letter, record: ConsumerRecord) -> bytes:
        if letter.reason in _REKEYED and self._rekey:
            kind = next(kind for kind in KINDS.values() if kind.topic(self._topics) == letter.topic)
            with suppress(EventError):
                key: str = getattr(kind.parse(record.value), kind.key_field)
                return key.encode()
        return header(record, KEY)


def original_headers(record: ConsumerRecord) -> list[Header]:
    """The headers that the record had before it was put aside."""
    return [header for header in record.headers if not header[0].startswith(_OWN_HEADERS)]


def _letter(origin: str, record: ConsumerRecord) -> Letter:
    return Letter(
        origin=origin,
        reason=header(record, REASON).decode(errors="replace"),
        message=header(record, MESSAGE).decode(errors="replace"),
        put_aside_ms=record.timestamp,
        place=(record.partition, record.offset),
    )


def header(record: ConsumerRecord, name: str) -> bytes:
    """The value of a header, empty where there is none."""
    return next((value for held, value in record.headers if held == name), b"")
