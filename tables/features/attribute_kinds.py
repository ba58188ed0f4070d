"""Kinds over the attributes of an item, as the catalogue holds them."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from tables.features.attributes import Needs
from tables.features.blocks import Numbers, Rows
from tables.features.kind import (
    COUNT_EDGES,
    FLAG_EDGES,
    HOURS_EDGES,
    SHARE_EDGES,
    SIGNED_EDGES,
    Evaluate,
    Word,
    hot_suffixes,
    log_hours,
    spread,
)
from tables.features.list_kinds import OfRow
from tables.features.request_kinds import Values, bucket_of, bucket_suffixes

_OUTLIER = 6.0


class OfAttribute(OfRow, frozen=True, kw_only=True):
    """What kinds over one attribute share."""

    attribute: Word
    """Of the item."""


class Number(OfAttribute, frozen=True, kw_only=True):
    """A number, NaN where the item has none: as it is, as a signed log1p (`log`), in standard deviations from the mean
    of the catalogue (`standard`), or as the share of the catalogue that is below it (`quantile`, to 2 % of the number).
    The catalogue's mean and quantiles are learned as it changes.

    >>> told('price = {kind = "number", attribute = "price", transform = "log"}', items={"i1": {"price": 9}})
    price    2.3026 nan
    """

    kind: ClassVar[str] = "number"
    transform: Literal["none", "log", "standard", "quantile"] = "none"

    def needs(self) -> Needs:
        """The number."""
        return Needs(numbers=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As what it is made to."""
        return {"standard": SIGNED_EDGES, "quantile": SHARE_EDGES}.get(self.transform, COUNT_EDGES)

    @classmethod
    def compile(cls, declared: Sequence["Number"]) -> Evaluate:
        """A gather a feature."""
        return lambda rows: spread([_transformed(rows, one) for one in declared], len(rows))


def _transformed(rows: Rows, declared: Number) -> Numbers:
    scale = rows.attributes.scales[declared.attribute]
    if declared.transform == "quantile":
        return scale.quantiles(rows.attributes.buckets[declared.attribute].take(rows.item))
    values = rows.attributes.numbers[declared.attribute].take(rows.item)
    if declared.transform == "log":
        return np.copysign(np.log1p(np.abs(values)), values)
    if declared.transform == "standard":
        return np.clip((values - scale.mean) / scale.deviation, -_OUTLIER, _OUTLIER)
    return values


class Boolean(OfAttribute, frozen=True, kw_only=True):
    """1 where the attribute is true, or a number other than 0; 0 where it is not; NaN where the item has none.

    >>> told('new = {kind = "boolean", attribute = "new"}', items={"i1": {"new": True}, "i2": {"new": False}})
    new      1 0
    """

    kind: ClassVar[str] = "boolean"

    def needs(self) -> Needs:
        """The number that a truth value is."""
        return Needs(numbers=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Boolean"]) -> Evaluate:
        """A gather a feature."""

        def evaluate(rows: Rows) -> Numbers:
            columns = [rows.attributes.numbers[one.attribute][rows.item] for one in declared]
            return spread([np.where(np.isnan(c), c, c != 0) for c in columns], len(rows))

        return evaluate


class String(OfAttribute, frozen=True, kw_only=True):
    """1 in the columns of the values that the attribute has; it may have several (Metarank's `string`).

    >>> told('genre = {kind = "string", attribute = "genres", values = ["Drama", "War"]}',
    ...      items={"i1": {"genres": ["Drama", "War"]}, "i2": {"genres": "War"}})
    genre=Drama 1 0
    genre=War 1 1
    """

    kind: ClassVar[str] = "string"
    values: Values
    """A column each."""

    def suffixes(self) -> tuple[str, ...]:
        """A column a value."""
        return hot_suffixes(self.values)

    def needs(self) -> Needs:
        """The values."""
        return Needs(codes=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    @classmethod
    def compile(cls, declared: Sequence["String"]) -> Evaluate:
        """A comparison a column."""

        def evaluate(rows: Rows) -> Numbers:
            columns: list[Numbers] = []
            for one in declared:
                held = rows.attributes.codes[one.attribute][rows.item]
                code_of = rows.attributes.code_of[one.attribute]
                columns += [(held == code_of.get(value, -2)).any(axis=1) for value in one.values]
            return spread(columns, len(rows))

        return evaluate


class Hashed(OfAttribute, frozen=True, kw_only=True):
    """1 in the columns that the attribute's values are hashed to: for values that nobody can list.

    >>> told('brand = {kind = "hashed", attribute = "brand", buckets = 2}',
    ...      items={"i1": {"brand": "Kuli"}, "i2": {"brand": "Bram"}})
    brand#0  1 0
    brand#1  0 1
    """

    kind: ClassVar[str] = "hashed"
    buckets: Annotated[int, Meta(ge=2, le=64)]
    """How many columns."""

    def suffixes(self) -> tuple[str, ...]:
        """A column a bucket."""
        return bucket_suffixes(self.buckets)

    def needs(self) -> Needs:
        """The values."""
        return Needs(codes=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Hashed"]) -> Evaluate:
        """Each value is hashed once, when it is first seen; then it is a look-up."""
        buckets = [_Buckets(one.buckets) for one in declared]

        def evaluate(rows: Rows) -> Numbers:
            blocks = []
            for one, of_code in zip(declared, buckets, strict=True):
                held = rows.attributes.codes[one.attribute][rows.item]
                found = of_code(rows.attributes.code_of[one.attribute])[held]
                blocks.append((found[:, :, None] == np.arange(one.buckets)).any(axis=1).T)
            return np.concatenate(blocks).astype(np.float64)

        return evaluate


class _Buckets:
    """The bucket of every code of an attribute; the last entry is that of what is missing: none."""

    def __init__(self, buckets: int) -> None:
        self._buckets = buckets
        self._known: dict[str, int] | None = None
        self._of_code = np.array([-1])

    def __call__(self, code_of: dict[str, int]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        if self._known is not code_of or len(code_of) != len(self._of_code) - 1:
            self._known = code_of
            self._of_code = np.array([*(bucket_of(value, self._buckets) for value in code_of), -1])
        return self._of_code


class WordCount(OfAttribute, frozen=True, kw_only=True):
    """log1p of how many different words a text has, of 24 at most; NaN where the item has none.

    >>> told('words = {kind = "word_count", attribute = "title"}', items={"i1": {"title": "The Good the Bad"}})
    words    1.3863 nan
    """

    kind: ClassVar[str] = "word_count"

    def needs(self) -> Needs:
        """The words."""
        return Needs(terms=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["WordCount"]) -> Evaluate:
        """A count a feature."""

        def evaluate(rows: Rows) -> Numbers:
            counts = [(rows.attributes.terms[one.attribute][rows.item] >= 0).sum(axis=1) for one in declared]
            return spread([np.where(count > 0, np.log1p(count), np.nan) for count in counts], len(rows))

        return evaluate


class ItemAge(OfAttribute, frozen=True, kw_only=True):
    """log1p of hours since a date among the item's attributes (RFC 3339, a day, or epoch milliseconds); NaN without.

    >>> told('age = {kind = "item_age", attribute = "published"}', items={"i1": {"published": "2026-01-01T12:00:00Z"}})
    age      0.6931 nan
    """

    kind: ClassVar[str] = "item_age"

    def needs(self) -> Needs:
        """The date."""
        return Needs(times=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As ages are cut."""
        return HOURS_EDGES

    @classmethod
    def compile(cls, declared: Sequence["ItemAge"]) -> Evaluate:
        """A difference a feature."""

        def evaluate(rows: Rows) -> Numbers:
            now_ms = rows.as_of_ms[rows.question]
            times = [rows.attributes.times_ms[one.attribute][rows.item] for one in declared]
            return spread([log_hours(now_ms - time_ms) for time_ms in times], len(rows))

        return evaluate
