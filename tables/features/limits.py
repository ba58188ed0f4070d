"""The limits of a catalogue at work: an order by score becomes one that keeps to them as well as can be.

Each place goes to the first item, by score, that breaks nothing there. Where every item left breaks something, it goes
to the one that breaks least: a limit declared earlier weighs more than all declared after it. So every item keeps a
place, the rest keep their order, and an answer of fewer items is the beginning of one of more.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tables.features.attributes import Needs
from tables.features.blocks import Flags, Indices, Rows
from tables.features.limit_kinds import Limit, Watch

LIMITS_MOST = 32
NOT_MOVED = -1
_NOT_TOLD = frozenset({"meaning", "slots"})
"""What an item's place does not depend on, given the slot."""
_PLACED = np.int64(1) << 62
"""Above the weight of every breach."""

Weights = NDArray[np.int64]
"""Of each item what it breaks: bit by bit the limits, the first declared highest."""


class DeclaredLimit(Struct, frozen=True):
    """One limit of a catalogue."""

    name: str
    limit: Limit

    def told(self) -> dict[str, Any]:
        """The limit as decisions tell it, in JSON's types: its kind and all parameters that its work follows from."""
        fields = msgspec.structs.asdict(self.limit)
        return {"kind": self.limit.kind} | {k: v for k, v in fields.items() if k not in _NOT_TOLD and v is not None}


def limits_of_slot(limits: Sequence[DeclaredLimit], slot: str) -> list[DeclaredLimit]:
    """Those that hold for requests of a slot."""
    return [one for one in limits if not one.limit.slots or slot in one.limit.slots]


def needs_of(limits: Sequence[DeclaredLimit]) -> Needs:
    """The attributes of items that limits read."""
    merged = Needs()
    for one in limits:
        merged = merged.merged(one.limit.needs())
    return merged


def within_limits(limits: Sequence[DeclaredLimit], rows: Rows, order: Indices) -> tuple[Indices, Indices]:
    """Keep an order to limits.

    `rows` holds one question, `order` all of its rows, best first, int64 `[n]`. Returns the rows in their new order,
    and by row the place among `limits` of the one that moved it behind rows that were behind it; NOT_MOVED for those
    that none did.
    """
    walk = _Walk([one.limit.watch(rows) for one in limits], order)
    return walk.places(), walk.moved


class _Walk:
    """Fills place after place."""

    def __init__(self, watches: Sequence[Watch], order: Indices) -> None:
        self._watches = watches
        self._order = order
        self._until = min(max((watch.until for watch in watches), default=0), len(order))
        self._left = np.ones(len(order), dtype=np.bool_)
        """By place in `order`, whether the row waits for its new place."""
        self.moved: Indices = np.full(len(order), NOT_MOVED, dtype=np.int64)

    def places(self) -> Indices:
        """All rows in their new order."""
        first = [self._fill(place) for place in range(self._until)]
        rest = np.flatnonzero(self._left)
        weights = self._weights(self._until)[rest]
        # From the end on, the least that any row behind breaks.
        behind = np.minimum.accumulate(weights[::-1])[::-1]
        self._mark(rest, weights, behind)
        rest = rest[np.argsort(weights, kind="stable")]
        placed: Indices = self._order[np.concatenate([np.array(first, dtype=np.int64), rest])]
        return placed

    def _fill(self, place: int) -> int:
        at = int(self._left.argmax())
        row = self._order[at]
        if any(watch.breaks(place)[row] for watch in self._watches):
            at = self._least(place)
        self._left[at] = False
        for watch in self._watches:
            watch.put(int(self._order[at]))
        return at

    def _least(self, place: int) -> int:
        """The first that breaks least, and those that it passes are marked."""
        weights = np.where(self._left, self._weights(place), _PLACED)
        at = int(weights.argmin())
        passed = np.flatnonzero(self._left[:at])
        self._mark(passed, weights[passed], weights[at : at + 1])
        return at

    def _weights(self, place: int) -> Weights:
        weights = np.zeros(len(self._order), dtype=np.int64)
        for watch in self._watches:
            weights += weights
            weights += watch.breaks(place)
        in_order: Weights = weights[self._order]
        return in_order

    def _mark(self, passed: Indices, weights: Weights, better: Weights) -> None:
        """Note of rows that others passed which limit was why: the weightiest that they break and those do not."""
        rows = self._order[passed]
        new: Flags = (self.moved[rows] == NOT_MOVED) & (weights > better)
        differ = (weights ^ better)[new]
        # The exponent of a number below 2**53 is the place of its highest bit.
        self.moved[rows[new]] = len(self._watches) - np.frexp(differ.astype(np.float64))[1]
