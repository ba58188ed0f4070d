"""What a worker holds, for an audit: the partitions that it folds into."""

from collections.abc import Callable, Sequence
from typing import Any

from persona_stream.holdings.digests import Stand
from persona_stream.stream.table import ChangelogTable


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

    def keys(self) -> list[str]:
        """The keys held now."""
        return list(self._held)

    def encoded(self, key: str) -> bytes | None:
        """As the changelog would have it."""
        return self._held.encoded(key)

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
