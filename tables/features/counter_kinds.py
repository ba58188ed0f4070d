"""Kinds over the counters of a user or an item: what happened, how often, when, and what it was worth."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from persona_stream.vocabulary.events import KINDS
from tables.counters import FIRST_TS, LAST_TS, SPANS, WINDOW_INDEX, WINDOWS
from tables.features.blocks import CounterBlock, Numbers, selection
from tables.features.kind import (
    COUNT_EDGES,
    HOURS_EDGES,
    RATIO_EDGES,
    SIGNED_EDGES,
    Evaluate,
    EventKind,
    Kind,
    Place,
    Scope,
    WindowName,
    log_hours_since,
    spread,
)
from tables.sketches import estimates

_SIZE_MS = {name: window.size_ms for name, window in SPANS.items()}


class Counted(Kind, frozen=True, kw_only=True):
    """What kinds over counters share."""

    over_counters: ClassVar[bool] = True
    scope: Scope = "item"
    """Whose counters: `user` or `item`."""

    def place(self) -> Place:
        """The user's or the item's."""
        return self.scope


class EventCount(Counted, frozen=True, kw_only=True):
    """What counts of events share."""

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES

    def counted(self) -> tuple[str, Sequence[str]]:
        """The window, "" for all time, and the types."""
        raise NotImplementedError

    @classmethod
    def compiled_by(cls) -> type[Kind]:
        """Of whatever windows they are, they are counted together."""
        return EventCount

    @classmethod
    def compile(cls, declared: Sequence["EventCount"]) -> Evaluate:
        """One product for all."""
        pick = _Picked([one.counted() for one in declared])
        return lambda block: np.log1p(pick(block))


class WindowCount(EventCount, frozen=True, kw_only=True):
    """log1p of how many events of some types there were in a sliding window of event time. It ends with the pane that
    holds the moment asked about: panes are a minute wide for windows of up to 5 minutes, 10 minutes for up to an hour,
    3 hours for up to a day, and a day for longer ones.

    >>> told('clicks = {kind = "window_count", events = ["click"], window = "1h"}',
    ...      [("u1", "click", "i1", 20), ("u2", "click", "i1", 50), ("u1", "view", "i1", 55)], "u1", ["i1", "i2"])
    clicks   1.0986 0
    """

    kind: ClassVar[str] = "window_count"
    events: tuple[EventKind, ...] = ()
    """Types counted; none named: all but impressions."""
    window: WindowName

    def counted(self) -> tuple[str, Sequence[str]]:
        """As declared."""
        return self.window, self.events


class InteractionCount(EventCount, frozen=True, kw_only=True):
    """log1p of how many events of some types there were, ever.

    >>> told('clicks = {kind = "interaction_count", events = ["click"]}',
    ...      [("u2", "click", "i1", -5000), ("u1", "click", "i1", 0)], "u1", ["i1", "i2"])
    clicks   1.0986 0
    """

    kind: ClassVar[str] = "interaction_count"
    events: tuple[EventKind, ...] = ()
    """Types counted; none named: all that is counted, impressions too."""

    def counted(self) -> tuple[str, Sequence[str]]:
        """Whatever happened is counted, so that "ever seen" tells new items from old ones."""
        return "", self.events or KINDS


class Rate(Counted, frozen=True, kw_only=True):
    """The share of events of some types among others, smoothed: `(top + rate * trials) / (bottom + trials)`.

    The prior keeps an item seen twice from leading the list (empirical Bayes with a fixed beta prior).

    >>> told('ctr = {kind = "rate", top = ["click"], bottom = ["impression"], rate = 0.1, trials = 10}',
    ...      [("u1", "impression", "i1", 0), ("u1", "click", "i1", 1)], "u1", ["i1", "i2"])
    ctr      0.1818 0.1
    """

    kind: ClassVar[str] = "rate"
    top: tuple[EventKind, ...]
    """Types whose share it is."""
    bottom: tuple[EventKind, ...]
    """Types that they are a share of."""
    window: WindowName | None = None
    """Unset: of all time."""
    rate: float = 0.05
    """What it is before anything is known."""
    trials: float = 20.0
    """How many events the prior weighs as much as."""

    def __post_init__(self) -> None:
        """Refuse what would divide by nothing."""
        if not self.top or not self.bottom:
            raise ValueError("`top` and `bottom` each need at least one type of event")
        if self.trials <= 0:
            raise ValueError("`trials` must be above 0")

    def usual_edges(self) -> tuple[float, ...]:
        """As ratios are cut."""
        return RATIO_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Rate"]) -> Evaluate:
        """One product for all."""
        tops = [(one.window or "", one.top) for one in declared]
        pick = _Picked([*tops, *((one.window or "", one.bottom) for one in declared)])
        trials: Numbers = np.array([[one.trials] for one in declared])
        prior: Numbers = np.array([[one.rate * one.trials] for one in declared])

        def evaluate(block: CounterBlock) -> Numbers:
            counts = pick(block)
            return (counts[: len(prior)] + prior) / (counts[len(prior) :] + trials)

        return evaluate


class Trend(Counted, frozen=True, kw_only=True):
    """log of the rate in a short window over that in a long one, each with one event more.

    >>> told('trend = {kind = "trend", short = "1h", long = "1d"}',
    ...      [("u1", "click", "i1", 50), ("u1", "click", "i1", 51), ("u1", "click", "i1", 52)], "u1", ["i1", "i2"])
    trend    1.2685 0
    """

    kind: ClassVar[str] = "trend"
    events: tuple[EventKind, ...] = ()
    """Types counted; none named: all but impressions."""
    short: WindowName
    long: WindowName

    def __post_init__(self) -> None:
        """Refuse windows in the wrong order."""
        if _SIZE_MS[self.short] >= _SIZE_MS[self.long]:
            raise ValueError("`short` must be shorter than `long`")

    def usual_edges(self) -> tuple[float, ...]:
        """As logarithms of ratios are cut."""
        return SIGNED_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Trend"]) -> Evaluate:
        """One product for all."""
        shorts = [(one.short, one.events) for one in declared]
        pick = _Picked([*shorts, *((one.long, one.events) for one in declared)])
        share: Numbers = np.array([[_SIZE_MS[one.short] / _SIZE_MS[one.long]] for one in declared])

        def evaluate(block: CounterBlock) -> Numbers:
            counts = pick(block)
            return np.log((counts[: len(share)] + 1.0) / (counts[len(share) :] * share + 1.0))

        return evaluate


class Since(Counted, frozen=True, kw_only=True):
    """What kinds over the time since an event share."""

    column: ClassVar[int]
    """Where the counters hold the event's time."""

    def usual_edges(self) -> tuple[float, ...]:
        """As ages are cut."""
        return HOURS_EDGES

    @classmethod
    def compiled_by(cls) -> type[Kind]:
        """They are the same, of other events."""
        return Since

    @classmethod
    def compile(cls, declared: Sequence["Since"]) -> Evaluate:
        """One logarithm for all."""
        columns = [one.column for one in declared]
        return lambda block: log_hours_since(np.array([block.longs[:, at] for at in columns]), block.as_of_ms)


class Recency(Since, frozen=True, kw_only=True):
    """log1p of hours since the last event of any type; of one that never had any, of 100,000 hours.

    >>> told('idle = {kind = "recency"}', [("u1", "click", "i1", -120)], "u1", ["i1", "i2"])
    idle     1.3863 11.5129
    """

    kind: ClassVar[str] = "recency"
    column: ClassVar[int] = LAST_TS


class Age(Since, frozen=True, kw_only=True):
    """log1p of hours since the first event of any type; of one that never had any, of 100,000 hours.

    >>> told('age = {kind = "age"}', [("u1", "click", "i1", -120), ("u1", "click", "i1", 0)], "u1", ["i1", "i2"])
    age      1.3863 11.5129
    """

    kind: ClassVar[str] = "age"
    column: ClassVar[int] = FIRST_TS


class DistinctCount(Counted, frozen=True, kw_only=True):
    """log1p of about how many different users ever had to do with an item, or items with a user; being shown is not
    counted. A sketch tells, to 6.5 % (one standard deviation), and closely while there are few.

    >>> told('users = {kind = "distinct_count"}', [("u1", "view", "i1", 0), ("u2", "view", "i1", 1),
    ...      ("u2", "click", "i1", 2)], "u1", ["i1", "i2"])
    users    1.1012 0
    """

    kind: ClassVar[str] = "distinct_count"

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["DistinctCount"]) -> Evaluate:
        """The same for all."""
        return lambda block: _repeated(np.log1p(estimates(block.sketches)), declared)


class Covisits(Kind, frozen=True, kw_only=True):
    """log1p of how many of the item's latest co-visits were with one of the user's 5 latest items.

    >>> told('near = {kind = "covisits"}',
    ...      [("u1", "view", "i1", 0), ("u1", "view", "i2", 1), ("u2", "view", "i1", 2)], "u2", ["i1", "i2"])
    near     0 0.6931
    """

    kind: ClassVar[str] = "covisits"
    over_counters: ClassVar[bool] = True

    def place(self) -> Place:
        """The item's, asked for one user."""
        return "item"

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Covisits"]) -> Evaluate:
        """The same for all."""
        return lambda block: _repeated(np.log1p(block.covisits), declared)


class _Picked:
    """Events of (window, types) pairs, float64 `[pairs, n]`; window "": all time."""

    def __init__(self, pairs: Sequence[tuple[str, Sequence[str]]]) -> None:
        mask = np.zeros((len(pairs), len(WINDOWS) + 1, len(KINDS)))
        self._spans: list[tuple[int, str, Numbers]] = []
        """Of the windows that few ask for: (pair, window, 1 for each kind that counts)."""
        for at, (window, events) in enumerate(pairs):
            if window and window not in WINDOW_INDEX:
                self._spans.append((at, window, selection(events).astype(np.float64)))
            else:
                mask[at, WINDOW_INDEX.get(window, len(WINDOWS))] = selection(events)
        self._mask = mask.reshape(len(pairs), -1)

    def __call__(self, block: CounterBlock) -> Numbers:
        # One small product is cheaper than a gather a pair.
        picked: Numbers = self._mask @ block.counts
        for at, window, kinds in self._spans:
            picked[at] = block.in_span(window) @ kinds
        return picked


def _repeated(column: Numbers, declared: Sequence[Kind]) -> Numbers:
    return spread([column] * len(declared), len(column))
