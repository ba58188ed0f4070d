"""The state of one partition of a table: values by key, the keys that changed, and how far the fold has come."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from persona_stream.kafka.writer import Record
from persona_stream.stream.slices import Slice

V = TypeVar("V")

PROGRESS_KEY = b"\x00progress"
"""The changelog key of a partition's progress. No id of a user or an item may begin with a NUL."""
OWNER_KEY = b"\x00owner"
"""The changelog key of the worker that took a partition over last."""
SYSTEM_KEYS = frozenset({PROGRESS_KEY, OWNER_KEY})
"""The keys that are not the table's."""


class Progress(Struct, array_like=True):
    """How far a partition's fold has come; written as the last record of every change, so all before it is there."""

    offset: int = -1
    """The source offset up to which all is applied."""
    watermark_ms: int = 0
    """The highest event time seen in the source partition."""
    appended_ms: int = 0
    """Kafka's timestamp of the record at `offset`."""
    events: int = 0
    """How many source records were folded, ever."""
    recent_items: list[str] = []
    """The latest items of the partition, newest last: where the interactions agent draws negatives from."""
    forwarded: dict[int, int] = {}
    """Partition -> offset there of the last record that it sent on to this one, where its key belongs."""

    def advance(self, part: Slice) -> None:
        """All of a slice was folded."""
        if part.last_offset <= self.offset:
            return
        self.events += sum(record.offset > self.offset for record in part)
        self.offset = part.last_offset
        self.appended_ms = part.records[-1].timestamp


_decode_progress = msgspec.msgpack.Decoder(Progress).decode
_encode_progress = msgspec.msgpack.Encoder().encode


def decode_progress(raw: bytes) -> Progress:
    """Progress as read from a changelog."""
    return _decode_progress(raw)


class Codec(Struct, Generic[V], frozen=True):
    """How a table's values become bytes and back, and what an absent key's value is."""

    new: Callable[[], V]
    encode: Callable[[V], bytes]
    decode: Callable[[bytes], V]


class Partition(Generic[V]):
    """Values of one partition. Those read back from a changelog stay bytes until first used: recovery is quick."""

    __slots__ = ("_codec", "_values", "changed", "progress")

    def __init__(self, codec: Codec[V]) -> None:
        self._codec = codec
        self._values: dict[str, V | bytes] = {}
        self.changed: set[str] = set()
        self.progress = Progress()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, key: str) -> V | None:
        """The value of a key, or None. Changing it needs `change`."""
        value = self._values.get(key)
        if isinstance(value, bytes):
            value = self._values[key] = self._codec.decode(value)
        return value

    def change(self, key: str) -> V:
        """The value of a key, new if absent, to be changed in place: it will be written to the changelog."""
        value = self._values.get(key)
        if value is None:
            value = self._values[key] = self._codec.new()
        elif isinstance(value, bytes):
            value = self._values[key] = self._codec.decode(value)
        self.changed.add(key)
        return value

    def put(self, key: str, value: V) -> None:
        """Replace a key's value."""
        self._values[key] = value
        self.changed.add(key)

    def delete(self, key: str) -> None:
        """Remove a key; a tombstone will be written."""
        self._values.pop(key, None)
        self.changed.add(key)

    def take_changes(self) -> list[Record]:
        """Changelog records of all that changed since last asked, keys in order, progress last."""
        encode, values = self._codec.encode, self._values
        records = []
        for key in sorted(self.changed):
            value = values.get(key)
            raw = value if value is None or isinstance(value, bytes) else encode(value)
            records.append(Record(key.encode(), raw))
        self.changed.clear()
        records.append(Record(PROGRESS_KEY, _encode_progress(self.progress)))
        return records

    def restore(self, key: bytes, raw: bytes | None) -> None:
        """Apply one changelog record."""
        if key == PROGRESS_KEY:
            self.progress = _decode_progress(raw) if raw else Progress()
        elif key == OWNER_KEY:
            pass
        elif raw is None:
            self._values.pop(key.decode(), None)
        else:
            self._values[key.decode()] = raw
