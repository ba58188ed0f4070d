"""Kinds of limits: what may stand where in an answer, whatever it was scored.

A limit never drops an item: what it has something against stands behind what it has nothing against.
"""

from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tables.features.attributes import MISSING, Needs
from tables.features.blocks import HISTORY_KEPT, Flags, Numbers, Rows
from tables.features.codes import asked_codes, visited_codes
from tables.features.history_kinds import times_alike
from tables.features.kind import Declarable, Duration, Word, duration_ms
from tables.features.list_kinds import times_shown
from tables.users import PENDING_KEPT

FIRST_MOST = 100
"""Places are filled one by one as far as limits look, so they look no further than anybody does."""

Slot = Annotated[str, Meta(max_length=128)]
First = Annotated[int, Meta(ge=1, le=FIRST_MOST)]


class Watch:
    """A limit at work on one list of n items, whose places are filled from the first on."""

    until = 0
    """Places from this one on are all the same to it."""

    def __init__(self, n: int) -> None:
        self._none: Flags = np.zeros(n, dtype=np.bool_)

    def breaks(self, place: int) -> Flags:
        """Which of the items would break the limit at a 0-based place, given those before it; bool `[n]`."""
        raise NotImplementedError

    def put(self, item: int) -> None:
        """One of the items got the next place."""


class Limit(Declarable, frozen=True, kw_only=True):
    """A declared limit of one kind; the fields are its parameters."""

    slots: tuple[Slot, ...] = ()
    """The slots of requests that it holds for; none named: all."""

    def needs(self) -> Needs:
        """The attributes of items that it reads."""
        return Needs()

    def watch(self, rows: Rows) -> Watch:
        """The limit at work on the one question in `rows`."""
        raise NotImplementedError


class Shown(Limit, frozen=True, kw_only=True):
    """An item that was shown so often of late goes behind all others. Without `attribute` it is lists with the item
    that count; with one, how often an item with a value of this one's stood in a list, as `shown_alike` counts. Of each
    user the 8 latest lists are known.

    >>> limited('tired = {kind = "shown", most = 2, within = "1h"}', ["i1", "i2", "i3"],
    ...         [("u1", "impression", ["i1", "i2"], 40), ("u1", "impression", ["i1"], 50)])
    1 i2
    2 i3
    3 i1     tired
    """

    kind: ClassVar[str] = "shown"
    most: Annotated[int, Meta(ge=1, le=1000)]
    """Shown so often, it goes behind."""
    within: Duration
    """At most so long ago."""
    attribute: Word | None = None
    """Of the items: not the item tires, but its values do."""

    def __post_init__(self) -> None:
        """Refuse what could never be reached."""
        if self.attribute is None and self.most > PENDING_KEPT:
            raise ValueError(f"`most` of an item is at most {PENDING_KEPT}: so many lists are known")

    def needs(self) -> Needs:
        """The values, if they tire."""
        return Needs(codes=(self.attribute,)) if self.attribute else Needs()

    def watch(self, rows: Rows) -> Watch:
        """The same at every place."""
        return _Everywhere(self._times(rows) >= self.most)

    def _times(self, rows: Rows) -> Numbers:
        spans_ms = [duration_ms(self.within)]
        by_span = times_alike(rows, self.attribute, spans_ms) if self.attribute else times_shown(rows, spans_ms)
        times: Numbers = by_span[0]
        return times


class _Everywhere(Watch):
    def __init__(self, tired: Flags) -> None:
        super().__init__(len(tired))
        self._tired = tired

    def breaks(self, place: int) -> Flags:
        return self._tired


class Spread(Limit, frozen=True, kw_only=True):
    """At most so many items of one value among the first: of a category, a brand, a seller. Further ones come after
    these places. Of an item with several values all count; one without any is never limited.

    >>> limited('mixed = {kind = "spread", attribute = "genre", most = 1, first = 2}', ["i1", "i2", "i3"],
    ...         items={"i1": {"genre": "War"}, "i2": {"genre": "War"}, "i3": {"genre": "Noir"}})
    1 i1
    2 i3
    3 i2     mixed
    """

    kind: ClassVar[str] = "spread"
    attribute: Word
    """Of the items."""
    most: First
    """So many may have a value in common."""
    first: First = 10
    """So many places are looked at."""

    def __post_init__(self) -> None:
        """Refuse what could never be broken."""
        if self.most >= self.first:
            raise ValueError("`most` must be below `first`: there are no more places than that")

    def needs(self) -> Needs:
        """The values."""
        return Needs(codes=(self.attribute,))

    def watch(self, rows: Rows) -> Watch:
        """Counts values as places are filled."""
        return _Values(rows.attributes.codes[self.attribute][rows.item], self.most, self.first)


class _Values(Watch):
    def __init__(self, codes: NDArray[np.int32], most: int, first: int) -> None:
        super().__init__(len(codes))
        self.until = first
        self._codes, self._most = codes, most
        self._counts: dict[int, int] = {}
        self._over: Flags = np.zeros(len(codes), dtype=np.bool_)

    def breaks(self, place: int) -> Flags:
        return self._over if place < self.until else self._none

    def put(self, item: int) -> None:
        for code in self._codes[item].tolist():
            if code == MISSING:
                return
            self._counts[code] = held = self._counts.get(code, 0) + 1
            if held == self._most:
                self._over |= (self._codes == code).any(axis=1)


class Novel(Limit, frozen=True, kw_only=True):
    """At least so many of the first are new to the user, as far as there are such: others make room for the best of
    them. Without `attribute` an item is new that the user never had to do with; with one, an item of which none of the
    user's recent items has a value.

    >>> limited('fresh = {kind = "novel", least = 1, first = 2}', ["i1", "i2", "i3"],
    ...         [("u1", "view", "i1", 0), ("u1", "view", "i2", 1)])
    1 i1
    2 i3
    3 i2     fresh
    """

    kind: ClassVar[str] = "novel"
    least: First
    """So many are new."""
    first: First = 10
    """So many places are looked at."""
    attribute: Word | None = None
    """Of the items: not the item is to be new, but its values are."""
    latest: Annotated[int, Meta(ge=1, le=HISTORY_KEPT)] = HISTORY_KEPT
    """With `attribute`: so many of the user's latest visits are looked at."""

    def __post_init__(self) -> None:
        """Refuse what could never be reached."""
        if self.least > self.first:
            raise ValueError("`least` can't be above `first`: there are no more places than that")

    def needs(self) -> Needs:
        """The values, if they are to be new."""
        return Needs(codes=(self.attribute,)) if self.attribute else Needs()

    def watch(self, rows: Rows) -> Watch:
        """Counts what is new as places are filled."""
        return _Floor(self._is_new(rows), self.least, self.first)

    def _is_new(self, rows: Rows) -> Flags:
        if self.attribute is None:
            is_new = np.ones(len(rows), dtype=np.bool_)
            is_new[rows.touches.row] = False
            return is_new
        asked, recent = asked_codes(rows, self.attribute), rows.history.age < self.latest
        known: Flags = asked.shared(visited_codes(rows, self.attribute), recent[None])[0] > 0
        return asked.has_any & ~known


class _Floor(Watch):
    def __init__(self, is_new: Flags, least: int, first: int) -> None:
        super().__init__(len(is_new))
        self.until = min(first, len(is_new))
        self._is_new, self._is_known = is_new, ~is_new
        # What there is too little of needs no more room than that.
        self._missing = min(least, int(np.count_nonzero(is_new)))

    def breaks(self, place: int) -> Flags:
        # Behind its places it asks for nothing, whatever another limit has kept out of them.
        return self._is_known if 0 < self.until - place <= self._missing else self._none

    def put(self, item: int) -> None:
        self._missing -= bool(self._is_new[item])
