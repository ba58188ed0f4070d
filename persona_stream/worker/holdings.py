"""What a worker holds, for an audit: the partitions that it folds into."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from persona_stream.holdings.digests import Stand
from persona_stream.stream.partition import Progress, copy_progress, entry_digest
from persona_stream.stream.table import ChangelogTable


class Taken(Struct):
    """Values of some keys between two slices."""

    progress: Progress
    values: dict[str, bytes | None]
    unwritten: set[str]
    """Those whose value is not the one that was written to the changelog last."""


class PartitionHolding:
    """One partition of a table."""

    def __init__(self, table: ChangelogTable[Any], number: int, is_settled: Callable[[], bool]) -> None:
        self._table = table
        self._number = number
        self._is_settled = is_settled
        self._held = table.store.partitions[number]

    @property
    def table(self) -> str:
        """Its table."""
        return str(self._table.name)

    @property
    def partition(self) -> int:
        """Its number."""
        return self._number

    @property
    def changelog(self) -> str:
        """Where it is written to."""
        return self._table.changelog

    def stand(self) -> Stand | None:
        """The source offset up to which all is folded."""
        is_mine = self._table.store.partitions.get(self._number) is self._held
        return {self._number: self._held.progress.offset} if is_mine and self._is_settled() else None

    def kept_digest(self) -> int:
        """As the progress record has it."""
        return self._held.progress.digest

    def __len__(self) -> int:
        return len(self._held)

    def keys(self) -> Iterator[str]:
        """The keys held now."""
        return self._held.keys()

    def in_memory(self) -> list[str]:
        """Those whose values are in memory: RocksDB itself checks what is on disk."""
        return self._held.in_memory()

    def encoded(self, key: str) -> bytes | None:
        """As the changelog would have it."""
        return self._held.encoded(key)

    def take(self, keys: Iterable[str]) -> Taken:
        """The values of keys as of now; the progress is a copy."""
        values = {key: self._held.encoded(key) for key in keys}
        unwritten = set()
        for key, raw in values.items():
            written = self._held.written_digest(key)
            if written is not None and raw is not None and written != entry_digest(key.encode(), raw):
                unwritten.add(key)
        return Taken(copy_progress(self._held.progress), values, unwritten)

    def decode(self, raw: bytes) -> object:
        """As the fold sees it."""
        return self._table.codec.decode(raw)


class WorkerHoldings:
    """All partitions of all tables that this worker has at the moment."""

    stands_in = "source"

    def __init__(self, tables: Sequence[ChangelogTable[Any]], is_settled: Callable[[], bool]) -> None:
        """`is_settled`: whether state is read back, and no rebalance is going on."""
        self._tables = tables
        self._is_settled = is_settled

    def all(self) -> list[PartitionHolding]:
        """By table and partition."""
        return [
            PartitionHolding(table, number, self._is_settled)
            for table in self._tables
            for number in sorted(table.store.partitions)
        ]
