"""Kinds that weigh what happened by how long ago it was."""

from collections.abc import Sequence
from math import log
from typing import ClassVar

import numpy as np

from tables.counters import KIND_COLUMNS, WINDOWS, Window, covered
from tables.features.blocks import CounterBlock, Numbers, selection
from tables.features.counter_kinds import Counted
from tables.features.kind import COUNT_EDGES, Duration, Evaluate, EventKind, duration_ms, spread

_HALVINGS = 4
"""A window this many half-lives long misses a sixteenth of what it would count if it were endless."""


class DecayedCount(Counted, frozen=True, kw_only=True):
    """log1p of how many events of some types there were, each worth half as much a half-life later.

    Events are told apart by their panes: the age of one is that of the middle of its pane. Panes are those of the
    shortest window that is at least 4 half-lives long, of 7 days where none is; what is older counts no more.

    >>> told('hot = {kind = "decayed_count", events = ["click"], half_life = "1h"}',
    ...      [("u1", "click", "i1", -90), ("u1", "click", "i1", 58), ("u2", "view", "i1", 59)], "u1", ["i1", "i2"])
    hot      0.7778 0
    """

    kind: ClassVar[str] = "decayed_count"
    events: tuple[EventKind, ...] = ()
    """Types counted; none named: all but impressions."""
    half_life: Duration

    def __post_init__(self) -> None:
        """Refuse a half-life that next to nothing would be left of."""
        if duration_ms(self.half_life) > WINDOWS[-1].size_ms:
            raise ValueError(f"`half_life` must be at most {WINDOWS[-1].name}: nothing older is told apart")

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["DecayedCount"]) -> Evaluate:
        """A weighted sum a feature."""
        told = [(duration_ms(one.half_life), selection(one.events).astype(np.int32)) for one in declared]
        sums = [(_window(half_life_ms), log(2) / half_life_ms, kinds) for half_life_ms, kinds in told]
        return lambda block: np.log1p(spread([_decayed(block, *one) for one in sums], len(block.longs)))


def _window(half_life_ms: int) -> Window:
    return next((window for window in WINDOWS if window.size_ms >= _HALVINGS * half_life_ms), WINDOWS[-1])


def _decayed(
    block: CounterBlock, window: Window, decay: float, kinds: "np.ndarray[tuple[int], np.dtype[np.int32]]"
) -> Numbers:
    ring = window.ring(block.panes)
    middle_ms = ring[:, :, 0].astype(np.int64) * window.pane_ms + window.pane_ms // 2
    age_ms = np.maximum(block.as_of_ms[:, None] - middle_ms, 0)
    inside = covered(ring[:, :, 0], block.as_of_ms[:, None], window.pane_ms, window.rows)
    worth = inside * np.exp(age_ms * -decay)
    total: Numbers = np.zeros(len(ring))
    # Pane by pane: a sum along the ring would round otherwise for another number of keys.
    for events, each in zip((ring[:, :, KIND_COLUMNS] @ kinds).T, worth.T, strict=True):
        total += events * each
    return total
