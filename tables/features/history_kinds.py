"""Kinds that compare an item's values and numbers with those of items that the user had to do with, or was shown."""

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from persona_stream.vocabulary.events import KINDS
from tables.features.attribute_kinds import OfAttribute
from tables.features.attributes import Needs
from tables.features.blocks import HISTORY_KEPT, Flags, Numbers, Rows, selections
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
from tables.features.user_columns import History

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


class Looks:
    """Which visits each of k features looks at."""

    def __init__(self, declared: Sequence[Compared]) -> None:
        self._attributes = [one.attribute for one in declared]
        self._latest = np.array([[one.latest] for one in declared])
        self._kinds = selections(one.events or KINDS for one in declared)
        spans = [duration_ms(one.within) if one.within is not None else _FOR_EVER_MS for one in declared]
        self._spans_ms = np.array(spans)[:, None] if min(spans) < _FOR_EVER_MS else None

    def chosen(self, history: History) -> Flags:
        """bool `[k, visits]`."""
        chosen: Flags = self._kinds.take(history.kind, 1) & (history.age < self._latest)
        if self._spans_ms is not None:
            chosen &= history.age_ms < self._spans_ms
        return chosen

    def columns(self, rows: Rows, column: Callable[[Rows, str, Flags], Numbers]) -> Numbers:
        """A column a feature, float64 `[k, n]`: of the rows, its attribute and which visits it looks at."""
        chosen = self.chosen(rows.history)
        made = [column(rows, attribute, each) for attribute, each in zip(self._attributes, chosen, strict=True)]
        return spread(made, len(rows))


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
        looks = Looks(declared)
        groups = [(attribute, np.array(places)) for attribute, places in by_attribute(declared).items()]
        novel = {at for at, one in enumerate(declared) if isinstance(one, Novelty)}

        def evaluate(rows: Rows) -> Numbers:
            block = np.empty((len(declared), len(rows)))
            chosen = looks.chosen(rows.history)
            for attribute, places in groups:
                asked, told = asked_codes(rows, attribute), visited_codes(rows, attribute)
                of_these = chosen.take(places, 0)
                shared = asked.shared(told, of_these)
                known = rows.history.of_users(of_these & told.has_any)
                block[places] = shared / rows.by_row(np.maximum(known, 1))
                for at, place in enumerate(places):
                    if place in novel:
                        is_told = rows.by_row(known[at] > 0) & asked.has_any
                        block[place] = np.where(is_told, shared[at] == 0, np.nan)
            return block

        return evaluate


def by_attribute(declared: Sequence[OfAttribute]) -> dict[str, list[int]]:
    """The places of the features of each attribute."""
    groups: dict[str, list[int]] = {}
    for at, one in enumerate(declared):
        groups.setdefault(one.attribute, []).append(at)
    return groups


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
        looks = Looks(declared)
        return lambda rows: looks.columns(rows, _relative)


def _relative(rows: Rows, attribute: str, chosen: Flags) -> Numbers:
    history, users, numbers = rows.history, len(rows.sizes), rows.attributes.numbers[attribute]
    recent, asked = numbers.take(history.item.compress(chosen)), numbers.take(rows.item)
    known = recent > 0
    user = history.user.compress(chosen).compress(known)
    count = np.bincount(user, minlength=users)
    total = np.bincount(user, weights=np.log(recent.compress(known)), minlength=users)
    level = total / np.where(count > 0, count, np.nan)
    relative = np.log(np.where(asked > 0, asked, np.nan)) - rows.by_row(level)
    return np.minimum(np.maximum(relative, -_OUTLIER), _OUTLIER)


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
        spans_ms = [duration_ms(one.within) for one in declared]

        def evaluate(rows: Rows) -> Numbers:
            block = np.empty((len(declared), len(rows)))
            for attribute, places in groups.items():
                block[places] = np.log1p(times_alike(rows, attribute, [spans_ms[at] for at in places]))
            return block

        return evaluate


def times_alike(rows: Rows, attribute: str, spans_ms: Sequence[int]) -> Numbers:
    """How often a value of each row's item stood in the lists known of its user, within each of k spans: float64
    `[k, n]`."""
    shown = rows.shown
    told = told_of(rows.attributes.codes[attribute].take(shown.item, 0), shown.user)
    return asked_codes(rows, attribute).shared(told, shown.within(spans_ms))
