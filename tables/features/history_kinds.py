"""Kinds that compare an item with what the user had to do with, asked for, was shown, or has before it in the list."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tables.features.attribute_kinds import OfAttribute
from tables.features.attributes import MISSING, TERM_BITS, Needs, as_values, as_vector, term_ids
from tables.features.blocks import HISTORY_KEPT, Flags, Indices, Numbers, Rows, selection
from tables.features.kind import (
    COUNT_EDGES,
    SHARE_EDGES,
    SIGNED_EDGES,
    Duration,
    Evaluate,
    EventKind,
    Word,
    duration_ms,
    spread,
)

_OUTLIER = 6.0
_CODE_BITS = 32
_SMALL = 1 << 16
"""Up to so many counts a table is quicker than a search."""

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
    def compile(cls, declared: Sequence["InteractedWith"]) -> Evaluate:
        """Two look-ups in a sorted list a feature."""
        return lambda rows: spread([_overlap(rows, one) for one in declared], len(rows))


def _overlap(rows: Rows, declared: Compared) -> Numbers:
    history, chosen = rows.history, declared.visits(rows)
    held = rows.attributes.codes[declared.attribute]
    recent, user = held[history.item[chosen]], history.user[chosen]
    known = np.bincount(user[recent[:, 0] >= 0], minlength=len(rows.sizes))
    shared = _shared(recent, user, held[rows.item], rows.question)
    return shared / np.maximum(known, 1)[rows.question]


def _shared(recent: NDArray[np.int32], user: Indices, asked: NDArray[np.int32], question: Indices) -> Numbers:
    """How often each row's codes are among those of its user's recent items, float64 `[n]`."""
    recent, asked = _trimmed(recent), _trimmed(asked)
    known = recent >= 0
    if not known.any():
        return np.zeros(len(asked))
    # Missing codes are -1: with one added they are 0, which counts for nothing.
    stride = int(max(recent.max(), asked.max(initial=MISSING))) + 2
    users = int(question[-1]) + 1 if len(question) else 1
    keys = ((recent + 1) + (user * stride)[:, None])[known]
    wanted = (asked + 1) + (question * stride)[:, None]
    if users * stride <= _SMALL:
        times = np.bincount(keys, minlength=users * stride)[wanted]
    else:
        keys.sort()
        times = np.searchsorted(keys, wanted, side="right") - np.searchsorted(keys, wanted, side="left")
    shared: Numbers = times.sum(axis=1).astype(np.float64)
    return shared


def _trimmed(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Without the columns behind that no row has."""
    return codes[:, : int((codes >= 0).any(axis=0).sum())]


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
    def compile(cls, declared: Sequence["Novelty"]) -> Evaluate:
        """As `interacted_with`."""
        return lambda rows: spread([_novelty(rows, one) for one in declared], len(rows))


def _novelty(rows: Rows, declared: Compared) -> Numbers:
    history, chosen = rows.history, declared.visits(rows)
    held = rows.attributes.codes[declared.attribute]
    recent, user, asked = held[history.item[chosen]], history.user[chosen], held[rows.item]
    known = np.bincount(user[recent[:, 0] >= 0], minlength=len(rows.sizes)) > 0
    shared = _shared(recent, user, asked, rows.question)
    return np.where(known[rows.question] & (asked[:, 0] >= 0), shared == 0, np.nan)


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


class TextSimilarity(Compared, frozen=True, kw_only=True):
    """Cosine of the tf-idf vectors of the item's text and of the user's recent items' texts together; 0 without words.

    How rare a word is follows from the texts of the catalogue as it is now.

    >>> told('like = {kind = "text_similarity", attribute = "title"}', [("u1", "view", "i3", 0)],
    ...      items={"i1": {"title": "red shoes"}, "i2": {"title": "blue hat"}, "i3": {"title": "red hat"}})
    like     0.428 0.428
    """

    kind: ClassVar[str] = "text_similarity"

    def needs(self) -> Needs:
        """The words."""
        return Needs(terms=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As shares are cut."""
        return SHARE_EDGES

    @classmethod
    def compile(cls, declared: Sequence["TextSimilarity"]) -> Evaluate:
        """A look-up in a sorted list a feature."""

        def evaluate(rows: Rows) -> Numbers:
            columns = []
            for one in declared:
                history, chosen = rows.history, one.visits(rows)
                recent = rows.attributes.terms[one.attribute][history.item[chosen]]
                columns.append(_cosine(rows, one.attribute, recent, history.user[chosen]))
            return spread(columns, len(rows))

        return evaluate


def _cosine(rows: Rows, attribute: str, recent: NDArray[np.int32], user: Indices) -> Numbers:
    """Cosine of each item's terms and its user's, weighted by rarity, float64 `[n]`."""
    held = recent >= 0
    if not held.any():
        return np.zeros(len(rows))
    keys, inverse = np.unique((recent + (user << TERM_BITS)[:, None])[held], return_inverse=True)
    weights = np.bincount(inverse) * rows.attributes.idf(attribute, (keys & ((1 << TERM_BITS) - 1)).astype(np.int32))
    size = np.sqrt(np.bincount(keys >> TERM_BITS, weights=weights**2, minlength=len(rows.sizes)))
    terms = _trimmed(rows.attributes.terms[attribute][rows.item]).T
    rarity = np.where(terms >= 0, rows.attributes.idf(attribute, np.maximum(terms, 0)), 0.0)
    wanted = terms + (rows.question << TERM_BITS)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    dot = _sum_in_order(np.where(keys[at] == wanted, weights[at], 0.0) * rarity)
    norm = np.sqrt(_sum_in_order(rarity**2)) * size[rows.question]
    cosine: Numbers = dot / np.where(norm > 0, norm, 1.0)
    return cosine


def _sum_in_order(terms: Numbers) -> Numbers:
    """Sums over the first axis, one after another: the same to the last bit however many zeros follow."""
    total: Numbers = np.zeros(terms.shape[1])
    for term in terms:
        total += term
    return total


class VectorSimilarity(Compared, frozen=True, kw_only=True):
    """Cosine of the item's vector (any encoder's output, a list of numbers) and the mean of those of the user's recent
    items, each made to be of length 1; 0 where either is missing. Vectors of different sizes are not compared.

    >>> told('like = {kind = "vector_similarity", attribute = "vector"}', [("u1", "view", "i1", 0)],
    ...      items={"i1": {"vector": [1.0, 0.0]}, "i2": {"vector": [3.0, 4.0]}})
    like     1 0.6
    """

    kind: ClassVar[str] = "vector_similarity"

    def needs(self) -> Needs:
        """The vectors."""
        return Needs(vectors=(self.attribute,))

    def usual_edges(self) -> tuple[float, ...]:
        """As shares are cut."""
        return SHARE_EDGES

    @classmethod
    def compile(cls, declared: Sequence["VectorSimilarity"]) -> Evaluate:
        """A mean a user and a product a row."""
        return lambda rows: spread([_vector_cosine(rows, one) for one in declared], len(rows))


def _vector_cosine(rows: Rows, declared: Compared) -> Numbers:
    history, chosen = rows.history, declared.visits(rows)
    cosine = np.zeros(len(rows))
    # An item has a vector of one length: in the others its products are 0.
    for length, vectors in rows.attributes.vectors[declared.attribute].items():
        mean = np.zeros((len(rows.sizes), length))
        np.add.at(mean, history.user[chosen], vectors[history.item[chosen]].astype(np.float64))
        size = np.sqrt((mean**2).sum(axis=1, keepdims=True))
        cosine += _dots(rows, vectors, mean / np.where(size > 0, size, 1.0))
    return cosine


def _dots(rows: Rows, vectors: NDArray[np.float32], of_user: Numbers) -> Numbers:
    """The product of each item's vector and its user's, float64 `[n]`."""
    # Row by row: a matrix product would round otherwise for more rows.
    products: Numbers = np.einsum("nd,nd->n", vectors[rows.item].astype(np.float64), of_user[rows.question])
    return products


class FieldMatch(OfAttribute, frozen=True, kw_only=True):
    """How well a field of the request's context fits an attribute of the item: the share of the item's values that
    are asked for (`values`), the cosine of their words by tf-idf (`text`), or of their vectors (`vector`). 0 without.

    >>> told('match = {kind = "field_match", attribute = "title", field = "query", method = "text"}',
    ...      items={"i1": {"title": "red shoes"}, "i2": {"title": "blue hat"}}, context={"query": "Red hat!"})
    match    0.5 0.5
    """

    kind: ClassVar[str] = "field_match"
    field: Word
    """Of the context."""
    method: Literal["values", "text", "vector"]

    def needs(self) -> Needs:
        """Whatever the method compares."""
        kind = {"values": "codes", "text": "terms", "vector": "vectors"}[self.method]
        return Needs(**{kind: (self.attribute,)})

    def context_fields(self) -> tuple[str, ...]:
        """What is asked for."""
        return (self.field,)

    def usual_edges(self) -> tuple[float, ...]:
        """As shares are cut."""
        return SHARE_EDGES

    @classmethod
    def compile(cls, declared: Sequence["FieldMatch"]) -> Evaluate:
        """A comparison a feature."""
        return lambda rows: spread([_MATCH[one.method](rows, one) for one in declared], len(rows))


def _match_values(rows: Rows, declared: FieldMatch) -> Numbers:
    code_of = rows.attributes.code_of[declared.attribute]
    asked = [as_values(request.context.get(declared.field)) for request in rows.requests]
    codes = [code_of.get(value, MISSING) for values in asked for value in values]
    user = np.repeat(np.arange(len(asked)), [len(values) for values in asked])
    held = rows.attributes.codes[declared.attribute][rows.item]
    shared = _shared(np.array(codes, dtype=np.int32).reshape(-1, 1), user, held, rows.question)
    share: Numbers = shared / np.maximum((held >= 0).sum(axis=1), 1)
    return share


def _match_text(rows: Rows, declared: FieldMatch) -> Numbers:
    asked = [term_ids(request.context.get(declared.field)) for request in rows.requests]
    terms = np.array([term for terms in asked for term in terms], dtype=np.int32).reshape(-1, 1)
    return _cosine(rows, declared.attribute, terms, np.repeat(np.arange(len(asked)), [len(terms) for terms in asked]))


def _match_vector(rows: Rows, declared: FieldMatch) -> Numbers:
    told = [as_vector(request.context.get(declared.field)) for request in rows.requests]
    cosine = np.zeros(len(rows))
    for length, vectors in rows.attributes.vectors[declared.attribute].items():
        asked = np.array([vector if len(vector) == length else np.zeros(length) for vector in told])
        cosine += _dots(rows, vectors, asked)
    return cosine


_MATCH = {"values": _match_values, "text": _match_text, "vector": _match_vector}


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
        """Two look-ups in a sorted list a feature."""

        def evaluate(rows: Rows) -> Numbers:
            shown, columns = rows.shown, []
            age_ms = rows.as_of_ms[shown.user] - shown.ts_ms
            for one in declared:
                chosen = (age_ms >= 0) & (age_ms < duration_ms(one.within))
                held = rows.attributes.codes[one.attribute]
                shared = _shared(held[shown.item[chosen]], shown.user[chosen], held[rows.item], rows.question)
                columns.append(np.log1p(shared))
            return spread(columns, len(rows))

        return evaluate
