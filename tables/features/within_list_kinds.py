"""Kinds that compare an item with the others of its list."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from msgspec import field

from tables.features.attribute_kinds import OfAttribute
from tables.features.attributes import Needs
from tables.features.blocks import Indices, Numbers, Rows
from tables.features.kind import COUNT_EDGES, SHARE_EDGES, SIGNED_EDGES, Evaluate, Word, spread
from tables.features.list_kinds import OfRow, given

_OUTLIER = 6.0
_CODE_BITS = 32
_LARGEST = 1e12


class ListRelative(OfRow, frozen=True, kw_only=True):
    """How a number of the item compares within its list: its `rank` from lowest (0) to highest (1), its `score` (how
    many standard deviations it is above the mean), or `to_lowest` (log of its ratio to the lowest).

    >>> told('cheap = {kind = "list_relative", field = "prices", measure = "rank"}',
    ...      ask=["i1", "i2", "i3"], context={"prices": [80, 60, 100]})
    cheap    0.5 0 1
    """

    kind: ClassVar[str] = "list_relative"
    field_name: Word | None = field(name="field", default=None)
    """The field of the context that holds a number for each item, ..."""
    attribute: Word | None = None
    """... or the attribute of the items."""
    measure: Literal["rank", "score", "to_lowest"]

    def __post_init__(self) -> None:
        """Refuse two sources, or none."""
        if (self.field_name is None) == (self.attribute is None):
            raise ValueError("one of `field` and `attribute` is needed")

    def needs(self) -> Needs:
        """The attribute, if that is compared."""
        return Needs(numbers=(self.attribute,)) if self.attribute else Needs()

    def context_fields(self) -> tuple[str, ...]:
        """The list's, if that is compared."""
        return (self.field_name,) if self.field_name else ()

    def usual_edges(self) -> tuple[float, ...]:
        """As shares or signed numbers are cut."""
        return SHARE_EDGES if self.measure == "rank" else SIGNED_EDGES

    @classmethod
    def compile(cls, declared: Sequence["ListRelative"]) -> Evaluate:
        """A comparison a feature."""

        def evaluate(rows: Rows) -> Numbers:
            columns = []
            for one in declared:
                values = (
                    rows.attributes.numbers[one.attribute].take(rows.item)
                    if one.attribute
                    else given(rows, str(one.field_name))
                )
                columns.append(_COMPARE[one.measure](rows, values))
            return spread(columns, len(rows))

        return evaluate


def _rank(rows: Rows, values: Numbers) -> Numbers:
    known = np.isfinite(values)
    others = np.maximum(rows.of_questions(known) - 1, 1)
    share = _places(rows, values) / rows.by_row(others)
    return np.where(known, share, np.nan)


def _places(rows: Rows, values: Numbers) -> Indices:
    """How many of its list are lower than each; equal values share the lowest place."""
    if len(rows.sizes) == 1:
        return np.sort(values).searchsorted(values)
    # NaN sorts last in each list.
    order = np.lexsort((values, rows.question))
    place = np.arange(len(values)) - rows.first[rows.question]
    ordered, owner = values[order], rows.question[order]
    begins = np.ones(len(values), dtype=bool)
    begins[1:] = (ordered[1:] != ordered[:-1]) | (owner[1:] != owner[:-1])
    lowest = np.maximum.accumulate(np.where(begins, np.arange(len(values)), 0))
    places = np.empty(len(values), dtype=np.int64)
    places[order] = place[lowest]
    return places


def _score(rows: Rows, values: Numbers) -> Numbers:
    known = np.isfinite(values)
    # From the lowest on: equal numbers are then exactly their mean, whatever its rounding.
    lowest = np.full(len(rows.sizes), np.inf)
    np.minimum.at(lowest, rows.question[known], values[known])
    filled = np.where(known, values - lowest[rows.question], 0.0)
    count = np.maximum(rows.of_questions(known), 1)
    mean = np.bincount(rows.question, weights=filled, minlength=len(rows.sizes)) / count
    centred = np.where(known, filled - mean[rows.question], 0.0)
    spread_of = np.sqrt(np.bincount(rows.question, weights=centred**2, minlength=len(rows.sizes)) / count)
    score = np.clip(centred / np.where(spread_of > 0, spread_of, 1.0)[rows.question], -_OUTLIER, _OUTLIER)
    return np.where(known, score, np.nan)


def _to_lowest(rows: Rows, values: Numbers) -> Numbers:
    positive = np.where(values > 0, values, np.inf)
    lowest = np.full(len(rows.sizes), np.inf)
    np.minimum.at(lowest, rows.question, positive)
    known = np.isfinite(positive)
    return np.where(known, np.log(np.where(known, positive, 1.0) / np.where(known, lowest[rows.question], 1.0)), np.nan)


_COMPARE = {"rank": _rank, "score": _score, "to_lowest": _to_lowest}


class Diversity(OfAttribute, frozen=True, kw_only=True):
    """How different the item is from those before it in the list: 1 less the share of them that have its (first)
    value, or for a number its distance from their mean, as log1p. The first item has 1, or 0.

    >>> told('other = {kind = "diversity", attribute = "genre"}', ask=["i1", "i2", "i3"],
    ...      items={"i1": {"genre": "War"}, "i2": {"genre": "War"}, "i3": {"genre": "Noir"}})
    other    1 0 1
    """

    kind: ClassVar[str] = "diversity"
    of: Literal["values", "number"] = "values"
    """What is compared."""

    def needs(self) -> Needs:
        """Values or numbers."""
        return Needs(codes=(self.attribute,)) if self.of == "values" else Needs(numbers=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As shares or counts are cut."""
        return SHARE_EDGES if self.of == "values" else COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Diversity"]) -> Evaluate:
        """A running count or mean a feature."""
        compare = {"values": _other_values, "number": _other_numbers}
        return lambda rows: spread([compare[one.of](rows, one.attribute) for one in declared], len(rows))


def _other_values(rows: Rows, attribute: str) -> Numbers:
    codes = rows.attributes.codes[attribute][rows.item, 0].astype(np.int64)
    keys = codes + (rows.question << _CODE_BITS)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.ones(len(keys), dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    at = np.arange(len(keys))
    same = np.empty(len(keys))
    same[order] = at - np.maximum.accumulate(np.where(begins, at, 0))
    before = at - rows.first[rows.question]
    return np.where(codes >= 0, 1.0 - same / np.maximum(before, 1), 1.0)


def _other_numbers(rows: Rows, attribute: str) -> Numbers:
    values = rows.attributes.numbers[attribute][rows.item]
    known = np.isfinite(values)
    filled, total, count = np.where(known, values, 0.0), np.zeros(len(values)), np.cumsum(known) - known
    # List by list, of those before: one running sum would carry the rounding of other lists.
    for first, size in zip(rows.first.tolist(), rows.sizes.tolist(), strict=True):
        last = first + max(size - 1, 0)
        total[first + 1 : last + 1] = np.cumsum(filled[first:last])
    count = count - count[rows.first[rows.question]]
    distance = np.abs(values - total / np.maximum(count, 1))
    return np.where(known & (count > 0), np.log1p(np.where(known, distance, 0.0)), 0.0)
