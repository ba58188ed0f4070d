"""Kinds over what the user had to do with an item: the touches among the user's latest 512 visits."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tables.features.blocks import Numbers, Rows, Selections, selections
from tables.features.kind import (
    COUNT_EDGES,
    DECAY_EDGES,
    FLAG_EDGES,
    HOURS_EDGES,
    NEVER_HOURS,
    SIGNED_EDGES,
    Duration,
    Evaluate,
    EventKind,
    Kind,
    Place,
    duration_ms,
    log_hours_since,
)

_LONGEST_CYCLE = 6.0


class Touching(Kind, frozen=True, kw_only=True):
    """What kinds over touches share."""

    events: tuple[EventKind, ...] = ()
    """Types looked at; none named: all but impressions."""

    def place(self) -> Place:
        """Of items that the user had to do with; others have the default."""
        return "pair"


class PairCount(Touching, frozen=True, kw_only=True):
    """log1p of how often the user had to do with the item.

    >>> told('own = {kind = "pair_count", events = ["click"]}',
    ...      [("u1", "click", "i1", 0), ("u1", "view", "i1", 1), ("u2", "click", "i2", 2)], "u1", ["i1", "i2"])
    own      0.6931 0
    """

    kind: ClassVar[str] = "pair_count"

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["PairCount"]) -> Evaluate:
        """One count for all, over the few touches there are."""
        kinds = selections(one.events for one in declared)
        return lambda rows: np.log1p(rows.touches.counts(rows.touches.of_kinds(kinds)))


class PairRecency(Touching, frozen=True, kw_only=True):
    """log1p of hours since the user last had to do with the item; where that never was, of 100,000 hours.

    >>> told('seen = {kind = "pair_recency", events = ["view"]}', [("u1", "view", "i1", -60)], "u1", ["i1", "i2"])
    seen     1.0986 11.5129
    """

    kind: ClassVar[str] = "pair_recency"
    default: ClassVar[float] = float(np.log1p(NEVER_HOURS))

    def usual_edges(self) -> tuple[float, ...]:
        """As ages are cut."""
        return HOURS_EDGES

    @classmethod
    def compile(cls, declared: Sequence["PairRecency"]) -> Evaluate:
        """One maximum for all."""
        kinds = selections(one.events for one in declared)

        def evaluate(rows: Rows) -> Numbers:
            touches = rows.touches
            return log_hours_since(touches.latest_ms(touches.of_kinds(kinds)), rows.by_touched(rows.as_of_ms))

        return evaluate


class PairDecayed(Touching, frozen=True, kw_only=True):
    """How often the user had to do with the item, each time worth `exp(-age / decay)`.

    >>> told('own = {kind = "pair_decayed", decay = "1h"}',
    ...      [("u1", "view", "i1", -61), ("u1", "view", "i1", -1)], "u1", ["i1", "i2"])
    own      0.4949 0
    """

    kind: ClassVar[str] = "pair_decayed"
    decay: Duration
    """The age at which a touch is worth 1/e."""

    def usual_edges(self) -> tuple[float, ...]:
        """As decayed counts are cut."""
        return DECAY_EDGES

    @classmethod
    def compile(cls, declared: Sequence["PairDecayed"]) -> Evaluate:
        """A weighted sum a feature."""
        kinds = selections(one.events for one in declared)
        decays_ms = np.array([[duration_ms(one.decay)] for one in declared])

        def evaluate(rows: Rows) -> Numbers:
            touches, as_of_ms = rows.touches, rows.by_touched(rows.as_of_ms)
            now_ms = as_of_ms if len(as_of_ms) == 1 else as_of_ms.take(touches.segment)
            worth = np.exp(np.maximum(now_ms - touches.ts_ms, 0) / -decays_ms) * touches.of_kinds(kinds)
            return np.array([touches.sums(one) for one in worth])

        return evaluate


class PairInSession(Touching, frozen=True, kw_only=True):
    """1 if the user had to do with the item in the session that is open, else 0.

    >>> told('now = {kind = "pair_in_session"}',
    ...      [("u1", "view", "i1", -90), ("u1", "view", "i2", 50)], "u1", ["i1", "i2"])
    now      0 1
    """

    kind: ClassVar[str] = "pair_in_session"

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    @classmethod
    def compile(cls, declared: Sequence["PairInSession"]) -> Evaluate:
        """One maximum for all."""
        kinds = selections(one.events for one in declared)

        def evaluate(rows: Rows) -> Numbers:
            touches, start_ms = rows.touches, rows.by_touched(rows.users.session[:, 0])
            latest_ms = touches.latest_ms(touches.of_kinds(kinds))
            return ((start_ms > 0) & (latest_ms >= start_ms)).astype(np.float64)

        return evaluate


class PairCycle(Touching, frozen=True, kw_only=True):
    """log of the time since the last of some events over the mean time between them; 0 before there were two.

    Above 0 the next one is due: who buys milk each week is out of it after eight days.

    >>> told('due = {kind = "pair_cycle", events = ["purchase"]}',
    ...      [("u1", "purchase", "i1", -300), ("u1", "purchase", "i1", -200)], "u1", ["i1", "i2"])
    due      0.9555 0
    """

    kind: ClassVar[str] = "pair_cycle"

    def usual_edges(self) -> tuple[float, ...]:
        """As logarithms of ratios are cut."""
        return SIGNED_EDGES

    @classmethod
    def compile(cls, declared: Sequence["PairCycle"]) -> Evaluate:
        """First, last and count for all."""
        kinds = selections(one.events for one in declared)
        return lambda rows: _cycles(rows, kinds)


def _cycles(rows: Rows, kinds: Selections) -> Numbers:
    touches = rows.touches
    flags = touches.of_kinds(kinds)
    times = touches.counts(flags)
    several = times > 1
    if not several.any():
        # Most often nobody bought any of them twice.
        return np.zeros(times.shape)
    first_ms, last_ms = touches.earliest_ms(flags), touches.latest_ms(flags)
    known = several & (last_ms > first_ms)
    gap_ms = np.where(known, last_ms - first_ms, 1) / np.maximum(times - 1, 1)
    since_ms = np.maximum(rows.by_touched(rows.as_of_ms) - last_ms, 1)
    cycle = np.clip(np.log(since_ms / gap_ms), -_LONGEST_CYCLE, _LONGEST_CYCLE)
    return np.where(known, cycle, 0.0)
