"""The state of one partition of a table: values by key, the keys that changed, and how far the fold has come."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from persona_stream.kafka.writer import Record
from persona_stream.stream.slices import KafkaRecord, Slice

V = TypeVar("V")

PROGRESS_KEY = b"\x00progress"
"""The changelog key of a partition's progress. No id of a user or an item may begin with a NUL."""
OWNER_KEY = b"\x00owner"
"""The changelog key of the worker that took a partition over last."""
SYSTEM_KEYS = frozenset({PROGRESS_KEY, OWNER_KEY})
"""The keys that are not the table's."""

UNKNOWN = -1
"""`keys` of a progress record that was written before partitions had a digest."""
DIGEST_MASK = (1 << 64) - 1


def entry_digest(key: bytes, raw: bytes) -> int:
    """The digest of one key with its encoded value: 64 bits, unsigned.

    The key's own hash is the seed of the value's, so that no byte can pass from one to the other unseen.

    >>> entry_digest(b"ab", b"c") == entry_digest(b"a", b"bc")
    False
    """
    return xxh3_64_intdigest(raw, xxh3_64_intdigest(key))


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
    digest: int = 0
    """The sum of `entry_digest` over all keys of the partition, modulo 2**64: whatever their order, and wherever they
    are held, equal entries have equal digests."""
    keys: int = UNKNOWN
    """How many keys the partition has."""

    def advance(self, part: Slice) -> None:
        """All of a slice was folded."""
        if part.last_offset <= self.offset:
            return
        is_new = part.first_offset > self.offset
        self.events += len(part) if is_new else sum(record.offset > self.offset for record in part)
        self.offset = part.last_offset
        self.appended_ms = part.records[-1].timestamp


_decode_progress = msgspec.msgpack.Decoder(Progress).decode
_encode_progress = msgspec.msgpack.Encoder().encode


def decode_progress(raw: bytes) -> Progress:
    """Progress as read from a changelog."""
    return _decode_progress(raw)


def copy_progress(progress: Progress) -> Progress:
    """Progress that stays as it is while the fold goes on."""
    return _decode_progress(_encode_progress(progress))


class Codec(Struct, Generic[V], frozen=True):
    """How a table's values become bytes and back, and what an absent key's value is."""

    new: Callable[[], V]
    encode: Callable[[V], bytes]
    decode: Callable[[bytes], V]


class Partition(Generic[V]):
    """Values of one partition. Those read back from a changelog stay bytes until first used: recovery is quick.

    The digest goes on from the progress record, by the entries that change. Where values were read back that the record
    does not speak of (a crash in the middle of a change, or a record without a digest), it is summed anew.
    """

    __slots__ = ("__weakref__", "_codec", "_digests", "_is_ahead", "_values", "changed", "progress")

    def __init__(self, codec: Codec[V]) -> None:
        self._codec = codec
        self._values: dict[str, V | bytes] = {}
        self._digests: dict[str, int] = {}
        """What each key had in the changelog whose value is not bytes any more."""
        self._is_ahead = False
        """Whether values were read back from behind the progress record."""
        self.changed: set[str] = set()
        self.progress = Progress()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def keys(self) -> Iterator[str]:
        """Every key as of now, one by one, while the partition goes on."""
        return iter(self.in_memory())

    def in_memory(self) -> list[str]:
        """The keys whose values are in memory as of now."""
        return list(self._values)

    def get(self, key: str) -> V | None:
        """The value of a key, or None. Changing it needs `change`."""
        value = self._values.get(key)
        return self._decoded(key, value) if isinstance(value, bytes) else value

    def encoded(self, key: str) -> bytes | None:
        """The value of a key as bytes, or None. What is held stays as it is."""
        value = self._values.get(key)
        return value if value is None or isinstance(value, bytes) else self._codec.encode(value)

    def written_digest(self, key: str) -> int | None:
        """The digest of the entry as it was written to the changelog last; None where it is not kept."""
        return None if key in self.changed else self._digests.get(key)

    def change(self, key: str) -> V:
        """The value of a key, new if absent, to be changed in place: it will be written to the changelog."""
        value = self._values.get(key)
        if value is None:
            value = self._values[key] = self._codec.new()
        elif isinstance(value, bytes):
            value = self._decoded(key, value)
        self.changed.add(key)
        return value

    def put(self, key: str, value: V) -> None:
        """Replace a key's value."""
        self._note_digest(key, self._values.get(key))
        self._values[key] = value
        self.changed.add(key)

    def delete(self, key: str) -> None:
        """Remove a key; a tombstone will be written."""
        self._note_digest(key, self._values.pop(key, None))
        self.changed.add(key)

    def _decoded(self, key: str, raw: bytes) -> V:
        self._note_digest(key, raw)
        value = self._values[key] = self._codec.decode(raw)
        return value

    def _note_digest(self, key: str, held: V | bytes | None) -> None:
        if isinstance(held, bytes):
            self._digests[key] = entry_digest(key.encode(), held)

    def take_changes(self) -> list[Record]:
        """Changelog records of all that changed since last asked, keys in order, progress last."""
        records = [self._take_change(key) for key in sorted(self.changed)]
        self.changed.clear()
        progress = self.progress
        if self._is_ahead or progress.keys != len(self):
            progress.digest, progress.keys = self._sum_digests(), len(self)
            self._is_ahead = False
        records.append(Record(PROGRESS_KEY, _encode_progress(progress)))
        return records

    def _take_change(self, key: str) -> Record:
        value = self._values.get(key)
        name = key.encode()
        if isinstance(value, bytes):
            return Record(name, value)
        progress, digest = self.progress, 0
        before = self._digests.pop(key, None)
        if before is not None:
            progress.keys -= 1
            digest -= before
        raw = None
        if value is not None:
            raw = self._codec.encode(value)
            after = self._digests[key] = entry_digest(name, raw)
            progress.keys += 1
            digest += after
        progress.digest = (progress.digest + digest) & DIGEST_MASK
        return Record(name, raw)

    def _sum_digests(self) -> int:
        digests = self._digests
        return DIGEST_MASK & sum(
            entry_digest(key.encode(), value) if isinstance(value, bytes) else digests[key]
            for key, value in self._values.items()
        )

    def restore(self, key: bytes, raw: bytes | None) -> None:
        """Apply one changelog record."""
        if key == PROGRESS_KEY:
            self.progress = _decode_progress(raw) if raw else Progress()
            self._is_ahead = False
        elif key == OWNER_KEY:
            pass
        else:
            self._is_ahead = True
            if raw is None:
                self._values.pop(key.decode(), None)
            else:
                self._values[key.decode()] = raw

    @property
    def reads_from(self) -> int:
        """The offset of the changelog from which on it is to be read back."""
        return 0

    @property
    def is_proven(self) -> bool:
        """Whether what is held goes with what was read back."""
        return True

    def restore_all(self, records: Sequence[KafkaRecord]) -> None:
        """Apply changelog records in order."""
        restore = self.restore
        for record in records:
            restore(record.key, record.value)  # type: ignore[arg-type]  # a compacted topic takes none without a key

    def acknowledged(self, records: Sequence[Record], end_offset: int) -> None:
        """Kafka has what `take_changes` gave, up to `end_offset` (negative: not told)."""

    def forget(self) -> None:
        """Hold nothing any more, to be read back from the beginning."""
        self._values.clear()
        self._digests.clear()
        self.progress = Progress()

    def close(self) -> None:
        """Give up what is held outside of memory."""
