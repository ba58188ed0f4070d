"""Kinds that tell how alike texts and vectors are: an item's, those of the user's recent items, those asked for."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tables.features.attribute_kinds import OfAttribute
from tables.features.attributes import TERM_BITS, Needs, as_values, as_vector, term_ids
from tables.features.blocks import Flags, Indices, Numbers, Rows
from tables.features.codes import asked_codes, codes_of, told_of
from tables.features.history_kinds import Compared, Looks
from tables.features.kind import SHARE_EDGES, Evaluate, Word, spread


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
        looks = Looks(declared)
        return lambda rows: looks.columns(rows, _text_cosine)


def _text_cosine(rows: Rows, attribute: str, chosen: Flags) -> Numbers:
    recent, user = rows.history.item.compress(chosen), rows.history.user.compress(chosen)
    return _cosine(rows, attribute, rows.attributes.terms[attribute].take(recent, 0), user)


def _cosine(rows: Rows, attribute: str, recent: NDArray[np.int32], user: Indices) -> Numbers:
    """Cosine of each item's terms and its user's, weighted by rarity, float64 `[n]`."""
    told = (recent + (user << TERM_BITS)[:, None])[recent >= 0]
    if not len(told):
        return np.zeros(len(rows))
    told.sort()
    # As np.unique would, in a third of its time for a few dozen.
    is_bound = np.ones(len(told) + 1, dtype=np.bool_)
    np.not_equal(told[1:], told[:-1], out=is_bound[1:-1])
    bounds = is_bound.nonzero()[0]
    keys, times = told.take(bounds[:-1]), bounds[1:] - bounds[:-1]
    weights = times * rows.attributes.idf(attribute, keys & ((1 << TERM_BITS) - 1))
    size = np.sqrt(np.bincount(keys >> TERM_BITS, weights=weights * weights, minlength=len(rows.sizes)))
    terms = np.ascontiguousarray(rows.attributes.terms[attribute].take(rows.item, 0).T)
    rarity = rows.attributes.idf(attribute, terms)
    if len(rows.sizes) == 1:
        found = rows.attributes.looked_up(keys, weights, terms)
    else:
        wanted = terms + (rows.question << TERM_BITS)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = (keys[at] == wanted) * weights[at]
    dot = _sum_in_order(found * rarity)
    norm = np.sqrt(_sum_in_order(rarity * rarity)) * rows.by_row(size)
    # Where a norm is 0, the product is, too.
    cosine: Numbers = dot / (norm + (norm == 0))
    return cosine


def _sum_in_order(terms: Numbers) -> Numbers:
    """Sums over the first axis, one after another: the same to the last bit however many zeros follow."""
    total: Numbers = np.add.accumulate(terms)[-1]
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
        looks = Looks(declared)
        return lambda rows: looks.columns(rows, _vector_cosine)


def _vector_cosine(rows: Rows, attribute: str, chosen: Flags) -> Numbers:
    recent, user = rows.history.item.compress(chosen), rows.history.user.compress(chosen)
    cosine = np.zeros(len(rows))
    # An item has a vector of one length: in the others its products are 0.
    for length, vectors in rows.attributes.vectors[attribute].items():
        mean = np.zeros((len(rows.sizes), length))
        np.add.at(mean, user, vectors.take(recent, 0).astype(np.float64))
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
    asked = [as_values(request.context.get(declared.field)) for request in rows.requests]
    codes = codes_of(rows.attributes, declared.attribute, [value for values in asked for value in values])
    user = np.repeat(np.arange(len(asked)), [len(values) for values in asked])
    of_items = asked_codes(rows, declared.attribute)
    everything = np.ones((1, len(codes)), dtype=np.bool_)
    share: Numbers = of_items.shared(told_of(codes, user), everything)[0] / np.maximum(of_items.count, 1)
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
