"""Visits: what a user did with an item, and the forms in which some are kept beside a state while it is in memory."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Protocol, TypeVar

T = TypeVar("T")

Visit = tuple[int, str, int]
"""(event time in ms, item, kind)"""

KIND_BITS = 3
"""A touch is one number, event time in ms and kind: `ts_ms << KIND_BITS | kind`."""

RECENT_KEPT = 64
"""So many of the latest visits are kept as numbers, too: features compare their items with others."""
_RECENT_NUMBERS = 3 * RECENT_KEPT


def touches_by_item(visits: Sequence[Visit]) -> dict[str, list[int]]:
    """Item -> its touches, in the order of the visits."""
    found: dict[str, list[int]] = {}
    for ts_ms, item, kind in visits:
        found.setdefault(item, []).append(ts_ms << KIND_BITS | kind)
    return found


def latest_distinct(newest_first: Iterable[T], limit: int) -> list[T]:
    """The first few different ones.

    >>> latest_distinct(["b", "a", "b", "c"], 2)
    ['b', 'a']
    """
    found: list[T] = []
    for one in newest_first:
        if one not in found:
            found.append(one)
            if len(found) == limit:
                break
    return found


class ItemCodes(Protocol):
    """Gives each item a number that stays its own."""

    def code(self, item: str) -> int:
        """The item's number."""
        ...

    def all_codes(self, items: Sequence[str]) -> list[int]:
        """The numbers of some items."""
        ...


class RecentVisits:
    """The latest visits as numbers, kept beside a state while it is in memory: gathering them is a copy of bytes."""

    __slots__ = ("_packed", "numbered_by")

    def __init__(self, visits: Sequence[Visit], codes: ItemCodes) -> None:
        self.numbered_by = codes
        latest = visits[-RECENT_KEPT:]
        numbers = codes.all_codes([item for _, item, _ in latest])
        kinds = [kind for _, _, kind in latest]
        self._packed = array("q", chain.from_iterable(zip([at for at, _, _ in latest], kinds, numbers, strict=True)))

    def insert(self, ts_ms: int, item: str, kind: int, later: int) -> None:
        """One more visit, with so many later ones: 0, or the rest of a basket, or it came late."""
        packed, visit = self._packed, (ts_ms, kind, self.numbered_by.code(item))
        if not later:
            packed.extend(visit)
        elif (at := len(packed) - 3 * later) >= 0:
            packed[at:at] = array("q", visit)
        if len(packed) > 4 * _RECENT_NUMBERS:
            del packed[:-_RECENT_NUMBERS]

    def packed(self) -> bytes:
        """(time in ms, kind, number of the item) of the latest RECENT_KEPT, oldest first: int64."""
        return self._packed[-_RECENT_NUMBERS:].tobytes()
