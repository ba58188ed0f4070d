"""Attribution: which of the lists that a user was shown an outcome answers, by event time, and what if it answers none.

How it is declared: `tables/features/attribution_section.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from msgspec import Struct
from xxhash import xxh3_64_intdigest

_HASHES = 2.0**64
Touch = Literal["last", "first", "all"]
L = TypeVar("L")


class Attribution(Struct, frozen=True):
    """The rules, in milliseconds."""

    window_ms: int
    touch: Touch = "last"
    slot_windows_ms: Mapping[str, int] = {}
    """Of slots that have a window of their own."""
    weights: Mapping[str, float] = {}
    """Type of outcome -> how much an example of it counts; 1 where none is told."""
    unlisted: float = 1.0
    """Of the outcomes that answer no list, the share that become examples of their own."""

    def window_of(self, slot: str) -> int:
        """The window of a slot's lists, in ms."""
        return self.slot_windows_ms.get(slot, self.window_ms)

    def weight_of(self, event_type: str) -> float:
        """How much an example of an outcome counts."""
        return self.weights.get(event_type, 1.0)

    def is_example(self, event_id: str) -> bool:
        """Whether an outcome that answers no list becomes an example: by its id, so the same ones at every replay.

        >>> sum(Attribution(1, unlisted=0.25).is_example(f"e{number}") for number in range(1000))
        238
        """
        return self.unlisted >= 1.0 or xxh3_64_intdigest(event_id.encode()) < self.unlisted * _HASHES

    def touched(self, lists: Sequence[L]) -> Sequence[L]:
        """Those that an outcome answers of the lists that it may answer, which stand latest first.

        >>> [Attribution(1, touch).touched(["d3", "d2", "d1"]) for touch in ("last", "first", "all")]
        [['d3'], ['d1'], ['d3', 'd2', 'd1']]
        """
        if self.touch == "all":
            return lists
        return lists[:1] if self.touch == "last" else lists[-1:]
