"""What users did, for features, by the column: touches of items, latest visits, and the lists that they were shown."""

from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tables.counters import Flags, Times
from tables.visits import KIND_BITS

_KIND_MASK = (1 << KIND_BITS) - 1
_NEVER_MS = np.iinfo(np.int64).max
_ITEM_BITS = 32

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


class Touches:
    """The user's own touches of rows' items, one after another; a segment is all those of one row, oldest first."""

    def __init__(self, packed: Sequence[int], rows: Sequence[int], counts: Sequence[int]) -> None:
        touches = np.array(packed, dtype=np.int64)
        self.ts_ms = touches >> KIND_BITS
        self.kind = touches & _KIND_MASK
        self.row: Indices = np.array(rows, dtype=np.int64)
        """The row of each segment; rows without touches have none."""
        self.count: Indices = np.array(counts, dtype=np.int64)
        self.start = self.count.cumsum() - self.count

    @cached_property
    def segment(self) -> Indices:
        """The segment of each touch."""
        return np.arange(len(self.count)).repeat(self.count)

    def of_kinds(self, kinds: Flags) -> Flags:
        """Which touches are of each of k selections of kinds, bool `[k, touches]`."""
        return kinds.take(self.kind, 1)

    def counts(self, chosen: Flags) -> Indices:
        """How many touches of each segment are chosen: bool `[k, touches]` to int64 `[k, segments]`."""
        return counted(self.segment, chosen, len(self.count))

    def sums(self, values: Numbers) -> Numbers:
        """Sums over each segment, one touch after another: float64 `[touches]` to `[segments]`."""
        return np.bincount(self.segment, weights=values, minlength=len(self.count)).astype(np.float64, copy=False)

    def latest_ms(self, chosen: Flags) -> Times:
        """The latest time among the touches chosen: bool `[k, touches]` to int64 `[k, segments]`; 0 where none is."""
        latest: Times = np.maximum.reduceat(np.where(chosen, self.ts_ms, 0), self.start, axis=1)
        return latest

    def earliest_ms(self, chosen: Flags) -> Times:
        """The earliest likewise; the largest integer where none is."""
        earliest: Times = np.minimum.reduceat(np.where(chosen, self.ts_ms, _NEVER_MS), self.start, axis=1)
        return earliest


class History(Struct, dict=True):
    """The latest visits of each question's user, oldest first, one user after another: arrays of one length."""

    user: Indices
    ts_ms: Times
    age_ms: Times
    """How long before the moment asked about; below 0 of what came later."""
    kind: Indices
    item: Indices
    """Rows of the attribute columns; each item has its own, whether or not the catalogue knows it."""
    age: Indices
    """0 for the user's latest visit, 1 for the one before."""
    count: Indices
    """How many there are of each user, int64 `[questions]`."""

    @cached_property
    def is_last(self) -> Flags:
        """Whether each visit is the user's last with its item: those among the latest visits tell how many different
        items these are with."""
        pairs = (self.user << _ITEM_BITS) + self.item
        order = pairs.argsort(kind="stable")
        ordered = pairs.take(order)
        last = np.ones(len(order), dtype=np.bool_)
        last[order[:-1]] = ordered[1:] != ordered[:-1]
        return last

    def by_visit(self, of_questions: NDArray[T]) -> NDArray[T]:
        """What is known of each question, at its user's visits; as it is, `[1]`, if it is one question."""
        return of_questions if len(self.count) == 1 else of_questions.take(self.user)

    def of_users(self, chosen: Flags) -> Indices:
        """How many visits are chosen of each user: bool `[k, visits]` to int64 `[k, questions]`."""
        return counted(self.user, chosen, len(self.count))


class Shown(Struct):
    """The items of the lists shown to each question's user of late: arrays of one length."""

    user: Indices
    age_ms: Times
    """How long before the moment asked about; below 0 of what came later."""
    item: Indices
    """Rows of the attribute columns."""
    row: Indices
    """The row of the question that asks about this very item; -1 where none does."""

    def within(self, spans_ms: Sequence[int]) -> Flags:
        """Which were shown less than each of k spans ago, bool `[k, items]`; nothing that came later."""
        return (self.age_ms >= 0) & (self.age_ms < np.array(spans_ms)[:, None])


def counted(owner: Indices, chosen: Flags, owners: int) -> Indices:
    """How many of the chosen each owner has: int64 `[m]` and bool `[k, m]` to int64 `[k, owners]`.

    >>> counted(np.array([0, 1, 1]), np.array([[True, True, True], [False, False, True]]), 3).tolist()
    [[1, 2, 0], [0, 1, 0]]
    """
    if owners == 1:
        return np.add.reduce(chosen, 1, keepdims=True)
    # Of many, in less than half of the time of one count with an offset for each of the k.
    return np.array([np.bincount(owner.compress(each), minlength=owners) for each in chosen])
