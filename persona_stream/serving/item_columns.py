"""The items table as columns: one row an item, so that candidates are gathered and scored without a Python loop."""

from collections.abc import Sequence
from itertools import repeat
from typing import TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tables.counters import LONGS, PANE_WIDTH, PANES, TOTALS, Times, Window, window_counts
from tables.features.blocks import CounterBlock
from tables.items import COVISITS_KEPT, SEGMENT_DAYS, Hashes, ItemState, are_among, covisits_of
from tables.sketches import NAME_HASHES

_FIRST_ROWS = 1024
_DAY_MS = 86_400_000
BLANK = 0
"""The row of every item that nothing is known of."""

Rows = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


class ServedItem(Struct, array_like=True):
    """What the columns keep of an item's state."""

    longs: bytes
    panes: bytes
    covisits: bytes
    """The hashes of the items of its latest co-visits, 0 where a visit has fewer: uint64."""
    segments: dict[str, list[int]]


def served_item(state: ItemState) -> ServedItem:
    """What the columns keep of a state."""
    segments = {name: ring for name, ring in state.segments.items() if any(ring)}
    return ServedItem(bytes(state.longs), bytes(state.panes), _covisits(state), segments)


class ItemColumns:
    """Item states in arrays that grow by doubling. Row 0 is blank."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._row_of_hash: dict[int, int] = {}
        self.ids: list[str] = [""]
        self._count = 0
        self._known: NDArray[np.bool_] = np.zeros(_FIRST_ROWS, dtype=np.bool_)
        self._panes: NDArray[np.int32] = np.zeros((_FIRST_ROWS, PANES, PANE_WIDTH), dtype=np.int32)
        self._longs: NDArray[np.int64] = np.zeros((_FIRST_ROWS, LONGS), dtype=np.int64)
        self._covisits: Hashes = np.zeros((_FIRST_ROWS, COVISITS_KEPT), dtype=np.uint64)
        self._segments: dict[str, NDArray[np.int32]] = {}

    def __len__(self) -> int:
        return self._count

    def __contains__(self, item: str) -> bool:
        return bool(self._known[self._rows.get(item, BLANK)])

    def put(self, item: str, state: ItemState) -> None:
        """Replace what is held of an item."""
        row = self._row_for(item)
        self._count += not self._known[row]
        self._known[row] = True
        self._panes[row] = np.frombuffer(state.panes, dtype=np.int32).reshape(PANES, PANE_WIDTH)
        self._longs[row] = np.frombuffer(state.longs, dtype=np.int64)
        self._covisits[row] = np.frombuffer(_covisits(state), dtype=np.uint64)
        for segment in self._segments.keys() - state.segments.keys():
            self._segments[segment][row] = 0
        for segment, ring in state.segments.items():
            self._segment(segment)[row] = np.array(ring, dtype=np.int32).reshape(SEGMENT_DAYS, 2)

    def delete(self, item: str) -> None:
        """Forget an item; its row stays, blank."""
        row = self._rows.get(item)
        if row is not None:
            self._count -= bool(self._known[row])
            self._known[row] = False
            self._panes[row] = 0
            self._longs[row] = 0
            self._covisits[row] = 0
            for rings in self._segments.values():
                rings[row] = 0

    def known(self) -> list[str]:
        """Every item that something is held of."""
        return [self.ids[row] for row in np.flatnonzero(self._known[: len(self.ids)]).tolist()]

    def served(self, item: str) -> ServedItem | None:
        """What is held of an item, None where nothing is."""
        row = self._rows.get(item, BLANK)
        if not self._known[row]:
            return None
        return ServedItem(
            longs=self._longs[row].tobytes(),
            panes=self._panes[row].tobytes(),
            covisits=self._covisits[row].tobytes(),
            segments={name: rings[row].ravel().tolist() for name, rings in self._segments.items() if rings[row].any()},
        )

    def rows(self, items: Sequence[str]) -> Rows:
        """Rows of items, int64 `[n]`; BLANK for those unknown."""
        return np.fromiter(map(self._rows.get, items, repeat(BLANK)), dtype=np.int64, count=len(items))

    def counters(self, rows: Rows, covisits: Times, as_of_ms: int) -> CounterBlock:
        """What is counted of rows; `covisits` are theirs with the latest items of the user who asks."""
        panes, longs = self._panes.take(rows, 0), self._longs.take(rows, 0)
        return CounterBlock(panes, longs, np.array([as_of_ms]), covisits=covisits)

    def covisit_counts(self, rows: Rows, recent: Sequence[str]) -> Times:
        """How many of each row's latest co-visits were with one of a few recent items, int64 `[n]`."""
        found = are_among(self._covisits[rows], [np.uint64(NAME_HASHES[item]) for item in recent])
        counts: Times = np.count_nonzero(found, axis=1).astype(np.int64)
        return counts

    def neighbours(self, item: str) -> tuple[Rows, Times]:
        """Rows of known items co-visited with one, and how often among its latest co-visits."""
        hashes, counts = np.unique(self._covisits[self._rows.get(item, BLANK)], return_counts=True)
        rows = np.fromiter(
            map(self._row_of_hash.get, hashes.tolist(), repeat(BLANK)), dtype=np.int64, count=len(hashes)
        )
        known = self._known[rows]
        return rows[known], counts[known].astype(np.int64)

    def all_rows(self) -> Rows:
        """Every row in use."""
        return np.arange(len(self.ids))

    def popularity(self, window: Window, as_of_ms: int, weights: Sequence[float]) -> NDArray[np.float64]:
        """Weighted events of every row in a window, float64 `[rows]`; `weights` go by `KINDS`."""
        end = len(self.ids)
        counts = window_counts(self._panes[:end], np.array([as_of_ms]), window)
        scores: NDArray[np.float64] = counts @ np.array(weights)
        return scores

    def segment_scores(self, rows: Rows, segment: str, as_of_ms: int) -> NDArray[np.float64] | None:
        """Events of a segment in its latest days, float64 `[n]`; None for a segment never seen."""
        rings = self._segments.get(segment)
        if rings is None:
            return None
        today = as_of_ms // _DAY_MS
        days, counts = rings[rows, :, 0], rings[rows, :, 1]
        recent = (days > today - SEGMENT_DAYS) & (days <= today)
        scores: NDArray[np.float64] = np.where(recent, counts, 0).sum(axis=1).astype(np.float64)
        return scores

    def weighted_totals(self, rows: Rows, weights: Sequence[float]) -> NDArray[np.float64]:
        """All events ever of rows, float64 `[n]`, weighted by kind."""
        scores: NDArray[np.float64] = self._longs[rows][:, TOTALS:] @ np.array(weights)
        return scores

    def totals(self, rows: Rows) -> Times:
        """All events ever of rows, int64 `[n]`."""
        totals: Times = self._longs[rows][:, TOTALS:].sum(axis=1)
        return totals

    def windows(self, row: int, as_of_ms: int, window: Window) -> list[int]:
        """Counts by kind of one row in a window."""
        counts: list[int] = window_counts(self._panes[row : row + 1], np.array([as_of_ms]), window)[0].tolist()
        return counts

    def _segment(self, segment: str) -> NDArray[np.int32]:
        rings = self._segments.get(segment)
        if rings is None:
            rings = self._segments[segment] = np.zeros((len(self._known), SEGMENT_DAYS, 2), dtype=np.int32)
        return rings

    def _row_for(self, item: str) -> int:
        row = self._rows.get(item)
        if row is None:
            row = self._rows[item] = len(self.ids)
            self._row_of_hash[NAME_HASHES[item]] = row
            self.ids.append(item)
            if row >= len(self._known):
                self._grow()
        return row

    def _grow(self) -> None:
        self._known = _doubled(self._known)
        self._panes = _doubled(self._panes)
        self._longs = _doubled(self._longs)
        self._covisits = _doubled(self._covisits)
        self._segments = {name: _doubled(rings) for name, rings in self._segments.items()}


def _covisits(state: ItemState) -> bytes:
    return covisits_of(state.visits).tobytes().ljust(8 * COVISITS_KEPT, b"\0")


def _doubled(array: NDArray[T]) -> NDArray[T]:
    return np.concatenate([array, np.zeros_like(array)])
