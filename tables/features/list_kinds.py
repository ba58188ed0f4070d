"""Kinds over the list itself: where each item stands in it, what the caller says of it, and what was shown before."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from msgspec import field
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from tables.features.attributes import as_number
from tables.features.blocks import Numbers, Rows
from tables.features.kind import (
    COUNT_EDGES,
    FLAG_EDGES,
    PLACE_EDGES,
    SHARE_EDGES,
    Duration,
    Evaluate,
    Kind,
    Place,
    Word,
    duration_ms,
    spread,
)
from tables.features.user_columns import counted

_OUTLIER = 6.0


class OfRow(Kind, frozen=True, kw_only=True):
    """What kinds about one item of one list share."""

    def place(self) -> Place:
        """A row's."""
        return "row"


class Position(OfRow, frozen=True, kw_only=True):
    """log1p of the 0-based place in the list that is or will be shown; -1 without one.

    >>> told('place = {kind = "position"}', ask=["i1", "i2", "i3"])
    place    0 0.6931 1.0986
    """

    kind: ClassVar[str] = "position"

    def usual_edges(self) -> tuple[float, ...]:
        """As places are cut."""
        return PLACE_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Position"]) -> Evaluate:
        """The same for all."""

        def evaluate(rows: Rows) -> Numbers:
            # Without a place it is -1: that of the first, which is 0, less 1.
            place = np.log1p(np.maximum(rows.position, 0)) - (rows.position < 0)
            return spread([place] * len(declared), len(place))

        return evaluate


class PairIsLatest(OfRow, frozen=True, kw_only=True):
    """1 if the user's latest interaction was with the item, not buying it, else 0.

    >>> told('latest = {kind = "pair_is_latest"}', [("u1", "view", "i1", 0), ("u1", "click", "i2", 1)])
    latest   0 1
    """

    kind: ClassVar[str] = "pair_is_latest"

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    @classmethod
    def compile(cls, declared: Sequence["PairIsLatest"]) -> Evaluate:
        """The same for all."""
        return lambda rows: spread([rows.is_latest.astype(np.float64)] * len(declared), len(rows))


class Given(OfRow, frozen=True, kw_only=True):
    """A number that the caller gives for each item: `context[field]` is a list as long as the items, in their order
    (Metarank's `relevancy`), as it is or as a signed log1p. NaN where there is none.

    >>> told('offer = {kind = "given", field = "prices"}', context={"prices": [77, 89]})
    offer    77 89
    """

    kind: ClassVar[str] = "given"
    field_name: Word = field(name="field")
    """Of the context."""
    transform: Literal["none", "log"] = "none"

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut: declare edges that suit the number."""
        return COUNT_EDGES

    def context_fields(self) -> tuple[str, ...]:
        """The list's."""
        return (self.field_name,)

    @classmethod
    def compile(cls, declared: Sequence["Given"]) -> Evaluate:
        """One array a list and feature."""

        def evaluate(rows: Rows) -> Numbers:
            values = [given(rows, one.field_name) for one in declared]
            logs = [one.transform == "log" for one in declared]
            return spread(
                [np.copysign(np.log1p(np.abs(v)), v) if log else v for v, log in zip(values, logs, strict=True)],
                len(rows),
            )

        return evaluate


def given(rows: Rows, name: str) -> Numbers:
    """What callers give for each item, float64 `[n]`; NaN where nothing is, or not one for each."""
    parts = []
    for request, size in zip(rows.requests, rows.sizes.tolist(), strict=True):
        held = request.context.get(name)
        if isinstance(held, list) and len(held) == size:
            # One by one: what a value counts for must not depend on those beside it.
            parts.append(np.array([as_number(value) for value in held], dtype=np.float64))
        else:
            parts.append(np.full(size, np.nan))
    return np.concatenate(parts)


class Random(OfRow, frozen=True, kw_only=True):
    """A number from 0 to 1 by the hash of user, item and moment: the same at every replay, and a yardstick, for what
    does not beat it is noise.

    >>> told('noise = {kind = "random"}')
    noise    0.081 0.7469
    """

    kind: ClassVar[str] = "random"
    salt: str = ""
    """Another one gives other numbers."""

    def usual_edges(self) -> tuple[float, ...]:
        """As shares are cut."""
        return SHARE_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Random"]) -> Evaluate:
        """One hash a row; its bits are spread again for each salt."""
        salts = np.array([[xxh3_64_intdigest(one.salt.encode())] for one in declared], dtype=np.uint64)

        def evaluate(rows: Rows) -> Numbers:
            mixed = _mixed(_hashes(rows) ^ salts)
            return (mixed >> np.uint64(11)) / float(1 << 53)

        return evaluate


def _hashes(rows: Rows) -> NDArray[np.uint64]:
    asked = zip(rows.names, rows.as_of_ms.tolist(), rows.items, strict=True)
    return np.array(
        [
            xxh3_64_intdigest(item.encode(), seed)
            for user, as_of_ms, items in asked
            for seed in [xxh3_64_intdigest(user.encode(), as_of_ms)]
            for item in items
        ],
        dtype=np.uint64,
    )


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The finalizer of SplitMix64 (Steele, Lea & Flood 2014).
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class ShownCount(OfRow, frozen=True, kw_only=True):
    """log1p of how many of the 8 latest lists shown to the user, at most so long ago, held the item: what was shown
    again and again and left alone tires.

    >>> told('shown = {kind = "shown_count", within = "30m"}',
    ...      [("u1", "impression", ["i1", "i2"], 40), ("u1", "impression", ["i1"], 50)])
    shown    1.0986 0.6931
    """

    kind: ClassVar[str] = "shown_count"
    within: Duration
    """At most so long ago."""

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["ShownCount"]) -> Evaluate:
        """A count a feature."""
        spans = [duration_ms(one.within) for one in declared]

        return lambda rows: np.log1p(times_shown(rows, spans))


def times_shown(rows: Rows, spans_ms: Sequence[int]) -> Numbers:
    """How many of the lists known of each row's user held its item, within each of k spans: float64 `[k, n]`."""
    shown = rows.shown
    return counted(shown.row, shown.within(spans_ms) & (shown.row >= 0), len(rows)).astype(np.float64)
