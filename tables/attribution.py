"""Attribution: which of the lists that a user was shown an outcome answers, by event time.

How it is declared: `tables/features/attribution_section.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from msgspec import Struct

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

    def window_of(self, slot: str) -> int:
        """The window of a slot's lists, in ms."""
        return self.slot_windows_ms.get(slot, self.window_ms)

    def weight_of(self, event_type: str) -> float:
        """How much an example of an outcome counts."""
        return self.weights.get(event_type, 1.0)

    def touched(self, lists: Sequence[L]) -> Sequence[L]:
        """Those that an outcome answers of the lists that it may answer, which stand latest first.

        >>> [Attribution(1, touch).touched(["d3", "d2", "d1"]) for touch in ("last", "first", "all")]
        [['d3'], ['d1'], ['d3', 'd2', 'd1']]
        """
        if self.touch == "all":
            return lists
        return lists[:1] if self.touch == "last" else lists[-1:]
