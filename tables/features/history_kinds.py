"""Kinds that compare an item's values and numbers with those of items that the user had to do with, or was shown."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from persona_stream.vocabulary.events import KINDS
from tables.features.attribute_kinds import OfAttribute
from tables.features.attributes import Needs
from tables.features.blocks import HISTORY_KEPT, Flags, Indices, Numbers, Rows, selection
from tables.features.codes import asked_codes, told_of, visited_codes
from tables.features.kind import (
    COUNT_EDGES,
    SHARE_EDGES,
    SIGNED_EDGES,
    Duration,
    Evaluate,
    EventKind,
    Kind,
    duration_ms,
    spread,
)

_OUTLIER = 6.0
_FOR_EVER_MS = 1 << 62

Latest = Annotated[int, Meta(ge=1, le=HISTORY_KEPT)]


class Compared(OfAttribute, frozen=True, kw_only=True):
    """What kinds over the user's recent items share: which of the latest 64 visits are looked at."""

    events: tuple[EventKind, ...] = ()
    """Types of visits; none named: all."""
    latest: Latest = 20
    """So many of the latest visits, of any type."""
    within: Duration | None = None
    """At most so long ago."""

    def visits(self, rows: Rows) -> Flags:
        """Which of the visits in `rows.history` are looked at."""
        history = rows.history
        chosen = history.age < self.latest
        if self.events:
            chosen &= selection(self.events)[history.kind]
        if self.within is not None:
            chosen &= rows.as_of_ms[history.user] - history.ts_ms < duration_ms(self.within)
        return chosen


class InteractedWith(Compared, frozen=True, kw_only=True):
    """How many of the item's values the user's recent items have, on average: the share of recent items of the same
    category, brand or genre (Metarank's `interacted_with`). Items without the attribute do not count.

    >>> told('genre = {kind = "interacted_with", attribute = "genre", events = ["view"]}',
    ...      [("u1", "view", "i3", 0), ("u1", "view", "i4", 1)],
    ...      items={"i1": {"genre": "War"}, "i2": {"genre": "Drama"}, "i3": {"genre": "War"}, "i4": {"genre": "Noir"}})
    genre    0.5 0
    """

    kind: ClassVar[str] = "interacted_with"

    def needs(self) -> Needs:
        """The values."""
        return Needs(codes=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As shares are cut."""
        return SHARE_EDGES

    @classmethod
    def compile(cls, declared: Sequence[Compared]) -> Evaluate:
        """All features of an attribute together, novelty too."""
        groups = _looks(declared)

        def evaluate(rows: Rows) -> Numbers:
            block = np.empty((len(declared), len(rows)))
            for attribute, places, looks in groups:
                shared, known = looks.shared(rows, attribute)
                block[places] = shared / np.maximum(known, 1)[:, rows.question]
                for at, place in enumerate(places):
                    if isinstance(declared[place], Novelty):
                        is_told = (known[at] > 0)[rows.question] & asked_codes(rows, attribute).has_any
                        block[place] = np.where(is_told, shared[at] == 0, np.nan)
            return block

        return evaluate


def by_attribute(declared: Sequence[OfAttribute]) -> dict[str, list[int]]:
    """The places of the features of each attribute."""
    groups: dict[str, list[int]] = {}
    for at, one in enumerate(declared):
        groups.setdefault(one.attribute, []).append(at)
    return groups


class _Looks:
    """Which visits each of some features looks at."""

    def __init__(self, declared: Sequence[Compared]) -> None:
        self._latest = np.array([[one.latest] for one in declared])
        self._kinds = np.array([selection(one.events) if one.events else np.ones(len(KINDS), bool) for one in declared])
        spans = [duration_ms(one.within) if one.within is not None else _FOR_EVER_MS for one in declared]
        self._spans_ms = np.array(spans)[:, None] if min(spans) < _FOR_EVER_MS else None

    def chosen(self, rows: Rows) -> Flags:
        """bool `[features, visits]`, of the visits in `rows.history`."""
        history = rows.history
        chosen: Flags = self._kinds[:, history.kind] & (history.age < self._latest)
        if self._spans_ms is not None:
            chosen &= rows.as_of_ms[history.user] - history.ts_ms < self._spans_ms
        return chosen

    def shared(self, rows: Rows, attribute: str) -> tuple[Numbers, Indices]:
        """How many of a row's values the recent items have, float64 `[features, n]`, and how many recent items of each
        user have the attribute at all, int64 `[features, questions]`."""
        told, chosen, users = visited_codes(rows, attribute), self.chosen(rows), len(rows.sizes)
        shared = asked_codes(rows, attribute).shared(told, chosen)
        with_any = chosen & told.has_any
        if users == 1:
            return shared, with_any.sum(axis=1, keepdims=True)
        owner = (rows.history.user + np.arange(len(chosen))[:, None] * users)[with_any]
        return shared, np.bincount(owner, minlength=len(chosen) * users).reshape(len(chosen), users)


def _looks(declared: Sequence[Compared]) -> list[tuple[str, list[int], _Looks]]:
    """Of each attribute its features' places, and what they look at."""
    groups = by_attribute(declared).items()
    return [(attribute, places, _Looks([declared[at] for at in places])) for attribute, places in groups]


class Novelty(Compared, frozen=True, kw_only=True):
    """1 where none of the user's recent items has any of the item's values, 0 where one has; NaN where the item has no
    value or the user no recent item with one.

    >>> told('new = {kind = "novelty", attribute = "genre"}', [("u1", "view", "i1", 0)],
    ...      items={"i1": {"genre": "War"}, "i2": {"genre": "Drama"}})
    new      0 1
    """

    kind: ClassVar[str] = "novelty"

    def needs(self) -> Needs:
        """The values."""
        return Needs(codes=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As shares are cut."""
        return SHARE_EDGES

    @classmethod
    def compiled_by(cls) -> type[Kind]:
        """It looks at what `interacted_with` looks at."""
        return InteractedWith


class RelativeNumber(Compared, frozen=True, kw_only=True):
    """log of the item's number over the geometric mean of the user's recent items': a price against what the user
    buys. NaN where either has none, or one that is not positive.

    >>> told('price = {kind = "relative_number", attribute = "price", events = ["purchase"]}',
    ...      [("u1", "purchase", "i1", 0)], items={"i1": {"price": 10}, "i2": {"price": 20}})
    price    0 0.6931
    """

    kind: ClassVar[str] = "relative_number"

    def needs(self) -> Needs:
        """The number."""
        return Needs(numbers=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As logarithms of ratios are cut."""
        return SIGNED_EDGES

    @classmethod
    def compile(cls, declared: Sequence["RelativeNumber"]) -> Evaluate:
        """A mean a feature and user."""
        return lambda rows: spread([_relative(rows, one) for one in declared], len(rows))


def _relative(rows: Rows, declared: Compared) -> Numbers:
    history, chosen = rows.history, declared.visits(rows)
    numbers = rows.attributes.numbers[declared.attribute]
    recent, user = _log(numbers[history.item[chosen]]), history.user[chosen]
    known = np.isfinite(recent)
    users = len(rows.sizes)
    count = np.bincount(user[known], minlength=users)
    level = np.bincount(user[known], weights=recent[known], minlength=users) / np.maximum(count, 1)
    level = np.where(count > 0, level, np.nan)
    return np.clip(_log(numbers[rows.item]) - level[rows.question], -_OUTLIER, _OUTLIER)


def _log(values: Numbers) -> Numbers:
    return np.log(np.where(values > 0, values, np.nan))


class ShownAlike(OfAttribute, frozen=True, kw_only=True):
    """log1p of how often a value of this one's stood in the 8 latest lists shown to the user, at most so long ago: a
    category that was shown again and again tires, too. Of an item with two of the values, both count.

    >>> told('tired = {kind = "shown_alike", attribute = "genre", within = "1h"}',
    ...      [("u1", "impression", ["i1", "i2"], 40)], items={"i1": {"genre": "War"}, "i2": {"genre": "War"}})
    tired    1.0986 1.0986
    """

    kind: ClassVar[str] = "shown_alike"
    within: Duration
    """At most so long ago."""

    def needs(self) -> Needs:
        """The values."""
        return Needs(codes=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["ShownAlike"]) -> Evaluate:
        """All features of an attribute together."""
        groups = by_attribute(declared)

        def evaluate(rows: Rows) -> Numbers:
            block = np.empty((len(declared), len(rows)))
            for attribute, places in groups.items():
                spans_ms = [duration_ms(declared[at].within) for at in places]
                block[places] = np.log1p(times_alike(rows, attribute, spans_ms))
            return block

        return evaluate


def times_alike(rows: Rows, attribute: str, spans_ms: Sequence[int]) -> Numbers:
    """How often a value of each row's item stood in the lists known of its user, within each of k spans: float64
    `[k, n]`."""
    shown = rows.shown
    age_ms = rows.as_of_ms[shown.user] - shown.ts_ms
    told = told_of(rows.attributes.codes[attribute][shown.item], shown.user)
    return asked_codes(rows, attribute).shared(told, (age_ms >= 0) & (age_ms < np.array(spans_ms)[:, None]))
