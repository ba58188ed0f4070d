"""A partition whose values are in a store on disk: state larger than memory, and a restart that reads only the rest.

What changed goes to the store only when Kafka has it in the changelog, with a mark of how far that is. A store that
were ahead would make a redelivered record look applied, and what follows from it would be lost. So after any crash a
store is a changelog read up to some place, and the rest of the changelog makes it whole.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import (
    DIGEST_MASK,
    PROGRESS_KEY,
    SYSTEM_KEYS,
    Codec,
    Partition,
    Progress,
    decode_progress,
    entry_digest,
)
from persona_stream.stream.slices import KafkaRecord
from persona_stream.stream.stores import Mark, Store

V = TypeVar("V")


class StoredPartition(Partition[V]):
    """A `Partition` that keeps at most `kept` values in memory after each slice: those changed last.

    Between a slice's fold and its acknowledgement by Kafka, what it changed is held in memory, encoded.

    Whether a store may be gone on from is seen from the changelog: it still has the progress record that the store ends
    with, or a later one, whose digest must be that of the store with the rest applied. That finds the store of another
    cluster or of a topic made anew, one ahead of a log that lost its end, and deletions whose tombstones compaction
    has dropped since.
    """

    __slots__ = ("_is_proven", "_kept", "_pending", "_start", "_store", "_unwritten")

    def __init__(self, codec: Codec[V], store: Store, kept: int) -> None:
        super().__init__(codec)
        self._store = store
        self._kept = kept
        self._pending: dict[bytes, Record] = {}
        """The newest record of each key that is not in the store yet."""
        self._unwritten: list[Record] = []
        """Records that Kafka has, but did not tell where."""
        self._begin()

    def _begin(self) -> None:
        self._start = self._store.mark
        self._is_proven = self._start is None
        self.progress = Progress(keys=0)
        if self._start is not None:
            self.progress = decode_progress(self._start.progress)
            self.progress.digest, self.progress.keys = self._start.digest, self._start.keys

    def __len__(self) -> int:
        unsaid = sum((key in self._values) - (key in self._digests) for key in self.changed)
        return self.progress.keys + unsaid

    def __contains__(self, key: str) -> bool:
        self._load(key)
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        """Each key; those on disk come one by one."""
        newer = {key.decode() for key in self._pending} | self._values.keys() | self.changed
        yield from [key for key in newer if key in self]
        for name, _ in self._store.entries():
            key = name.decode()
            if key not in newer:
                yield key

    def keys(self) -> Iterator[str]:
        """Every key as of now, one by one, while the partition goes on."""
        return iter(self)

    def get(self, key: str) -> V | None:
        """The value of a key, or None. Changing it needs `change`."""
        self._load(key)
        return super().get(key)

    def encoded(self, key: str) -> bytes | None:
        """The value of a key as bytes, or None. What is held stays as it is."""
        if key in self._values or key in self.changed:
            return super().encoded(key)
        return self._written(key)

    def change(self, key: str) -> V:
        """The value of a key, new if absent, to be changed in place: it will be written to the changelog."""
        self._load(key)
        return super().change(key)

    def put(self, key: str, value: V) -> None:
        """Replace a key's value."""
        self._load(key)
        super().put(key, value)

    def delete(self, key: str) -> None:
        """Remove a key; a tombstone will be written."""
        self._load(key)
        super().delete(key)

    def _load(self, key: str) -> None:
        if key in self._values or key in self.changed:
            return
        raw = self._written(key)
        if raw is not None:
            self._values[key] = raw

    def _written(self, key: str) -> bytes | None:
        name = key.encode()
        waiting = self._pending.get(name)
        return waiting.value if waiting is not None else self._store.get(name)

    def take_changes(self) -> list[Record]:
        """Changelog records of all that changed since last asked, keys in order, progress last."""
        for key in self.changed & self._values.keys():
            # Last in the dict, so evicted last.
            self._values[key] = self._values.pop(key)
        records = super().take_changes()
        self._pending.update((record.key, record) for record in records[:-1])
        self._evict()
        return records

    def _evict(self) -> None:
        for key in list(islice(self._values, max(0, len(self._values) - self._kept))):
            del self._values[key]
            self._digests.pop(key, None)

    def acknowledged(self, records: Sequence[Record], end_offset: int) -> None:
        """Kafka has what `take_changes` gave, up to `end_offset`: it goes to the store."""
        if self._store.is_closed:
            return
        self._unwritten += records
        if end_offset < 0:
            return
        raw = records[-1].value or b""
        told = decode_progress(raw)
        changes = {record.key: record.value for record in self._unwritten if record.key != PROGRESS_KEY}
        self._store.write(changes, Mark(end_offset - 1, raw, told.digest, told.keys))
        for record in self._unwritten:
            if self._pending.get(record.key) is record:
                del self._pending[record.key]
        self._unwritten.clear()

    @property
    def reads_from(self) -> int:
        """The offset of the changelog from which on it is to be read back."""
        return self._start.offset if self._start is not None else 0

    @property
    def is_proven(self) -> bool:
        """Whether what was read back shows that the store went well with the changelog."""
        return self._is_proven

    def restore_all(self, records: Sequence[KafkaRecord]) -> None:
        """Apply changelog records in order; what they tell goes to the store."""
        told = [at for at, record in enumerate(records) if record.key == PROGRESS_KEY]
        behind = told[-1] + 1 if told else 0
        self._apply(records[:behind])
        self._apply(records[behind:])

    def _apply(self, records: Sequence[KafkaRecord]) -> None:
        """Apply records of which none but the last tells progress."""
        if not records:
            return
        newest = {record.key or b"": record.value for record in records if record.key not in SYSTEM_KEYS}
        self._count(newest)
        last, held = records[-1], self._store.mark
        offset, raw = (held.offset, held.progress) if held is not None else (0, b"")
        if last.key == PROGRESS_KEY:
            self._meet_progress(last.offset, last.value or b"")
            if self._is_proven:
                offset, raw = last.offset, last.value or b""
        # Cut off here, a reading begins anew without a mark, and at the old one where the store has not proven itself:
        # a mark at what was only read would prove anything.
        mark = Mark(offset, raw, self.progress.digest, self.progress.keys) if raw else None
        self._store.write(newest, mark)

    def _count(self, newest: dict[bytes, bytes | None]) -> None:
        progress = self.progress
        digest = progress.digest
        for (key, raw), before in zip(newest.items(), self._store.get_many(list(newest)), strict=True):
            if before is not None:
                progress.keys -= 1
                digest -= entry_digest(key, before)
            if raw is not None:
                progress.keys += 1
                digest += entry_digest(key, raw)
        progress.digest = digest & DIGEST_MASK

    def _meet_progress(self, offset: int, raw: bytes) -> None:
        """Go on from what a record tells, but for digest and count: those are of what is really in the store."""
        told, counted, start = decode_progress(raw), self.progress, self._start
        if start is not None:
            is_where_it_ended = (offset, raw) == (start.offset, start.progress)
            self._is_proven = is_where_it_ended or (told.digest, told.keys) == (counted.digest, counted.keys)
        told.digest, told.keys = counted.digest, counted.keys
        self.progress = told

    def close(self) -> None:
        """Close the files of the store; they are kept."""
        self._store.close()

    def forget(self) -> None:
        """Hold nothing any more, to be read back from the beginning."""
        self._values.clear()
        self._digests.clear()
        self._store.clear()
        self._begin()
