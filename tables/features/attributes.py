"""The catalogue's attributes as columns, so that features of hundreds of candidates read them without a Python loop.

Only what the features ask for is kept. Row 0 is blank: every item that the catalogue does not know stands there, and
an attribute that an item lacks is missing: NaN, no code, no term, a vector of zeros. Whatever is learned about an
attribute over all items (its mean, its quantiles, how many texts hold a word) is kept in whole numbers, so it depends
on what the catalogue holds and not on the order in which it came.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

VALUES_KEPT = 8
"""Of an attribute with several values, so many are looked at."""
TERMS_KEPT = 24
TERM_BITS = 16
BLANK = 0
NO_BUCKET = -1
MISSING = -1
_FIRST_ROWS = 1024
_ALL_TEXTS = 1 << TERM_BITS
_MICRO = 1_000_000
_LARGEST = 1e13
"""A number beyond it is taken for missing: its square in millionths would help nobody."""
# Quantiles are read from buckets that grow by a 32nd of an octave (2.2 %), from a millionth to ten trillions.
_PER_OCTAVE = 32
_SMALLEST_OCTAVE, _OCTAVES = -20, 64
_HALF = _PER_OCTAVE * _OCTAVES
_WORD = re.compile(r"\w+")

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]
Terms = NDArray[np.int32] | NDArray[np.int64]


class Needs(Struct, frozen=True):
    """Which attributes features read, and as what."""

    numbers: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    times: tuple[str, ...] = ()

    def any(self) -> bool:
        """Whether anything is read."""
        return any(getattr(self, name) for name in self.__struct_fields__)

    def merged(self, other: "Needs") -> "Needs":
        """What either needs, each once."""
        names = self.__struct_fields__
        return Needs(**{name: tuple(dict.fromkeys(getattr(self, name) + getattr(other, name))) for name in names})


class Scale:
    """The distribution of a number over the catalogue: mean, deviation and quantiles of what is held now.

    >>> scale = Scale()
    >>> for price in (10.0, 20.0, 60.0):
    ...     scale.add(price, 1)
    >>> scale.mean, round(scale.deviation, 4)
    (30.0, 21.6025)
    >>> scale.quantiles(np.array([scale.bucket(20.0), scale.bucket(1000.0), NO_BUCKET])).tolist()
    [0.5, 1.0, nan]
    """

    def __init__(self) -> None:
        self._count = 0
        self._sum_micro = 0
        self._squares = 0
        """In millionths of millionths; whole numbers of any size, so sums are exact in every order."""
        self._buckets: NDArray[np.int64] = np.zeros(2 * _HALF + 1, dtype=np.int64)
        self._below: Numbers | None = None

    def add(self, value: float, times: int) -> None:
        """Count a value, or take it back with `times=-1`."""
        micro = round(value * _MICRO)
        self._count += times
        self._sum_micro += times * micro
        self._squares += times * micro * micro
        self._buckets[self.bucket(value)] += times
        self._below = None

    @staticmethod
    def bucket(value: float) -> int:
        """The bucket that a value is counted in."""
        if value == 0:
            return _HALF
        step = min(max(math.floor((math.log2(abs(value)) - _SMALLEST_OCTAVE) * _PER_OCTAVE) + 1, 0), _HALF)
        return _HALF - step if value < 0 else _HALF + step

    @property
    def mean(self) -> float:
        """Mean of the values held; 0 without any."""
        return self._sum_micro / self._count / _MICRO if self._count else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of the values held; 1 where they are all the same."""
        if self._count < 2:
            return 1.0
        variance = self._squares * self._count - self._sum_micro**2
        return math.sqrt(variance) / self._count / _MICRO if variance > 0 else 1.0

    def quantiles(self, buckets: NDArray[np.int32]) -> Numbers:
        """The share of values held below each bucket's, half of those in it counted in; NaN for NO_BUCKET."""
        if self._below is None:
            total = max(self._count, 1)
            self._below = np.append((np.cumsum(self._buckets) - self._buckets / 2) / total, np.nan)
        return self._below.take(buckets)


class AttributeColumns:
    """The attributes that features need of every item of the catalogue, a row an item."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self._rows: dict[str, int] = {}
        self._held = 1
        size = _FIRST_ROWS
        self.numbers: dict[str, Numbers] = {name: np.full(size, np.nan) for name in needs.numbers}
        self.times_ms: dict[str, Numbers] = {name: np.full(size, np.nan) for name in needs.times}
        self.codes: dict[str, NDArray[np.int32]] = {
            name: np.full((size, 1), MISSING, dtype=np.int32) for name in needs.codes
        }
        """Attribute -> `[rows, values]`: as many values as the item with the most has."""
        self.terms: dict[str, NDArray[np.int32]] = {
            name: np.full((size, 1), MISSING, dtype=np.int32) for name in needs.terms
        }
        self.vectors: dict[str, dict[int, NDArray[np.float32]]] = {name: {} for name in needs.vectors}
        """By their length: vectors of different lengths come from different encoders, and compare with nothing."""
        self.buckets: dict[str, NDArray[np.int32]] = {
            name: np.full(size, NO_BUCKET, dtype=np.int32) for name in needs.numbers
        }
        """Attribute -> the bucket of each number in its scale."""
        self.scales = {name: Scale() for name in needs.numbers}
        self.code_of: dict[str, dict[str, int]] = {name: {} for name in needs.codes}
        self._texts: dict[str, NDArray[np.int64]] = {
            name: np.zeros(_ALL_TEXTS + 1, dtype=np.int64) for name in needs.terms
        }
        """How many items hold each term; behind them, how many hold the attribute at all."""
        self._log_texts: dict[str, Numbers] = {name: np.array([*[0.0] * (_ALL_TEXTS + 1), 1.0]) for name in needs.terms}
        """log1p of that; the last, 1 more than that of all, makes nothing of a missing term."""
        self._table = np.zeros((1 << TERM_BITS) + 1)
        """Of `looked_up`, all 0 in between; the last is that of a missing term."""

    def rows(self, items: Iterable[str], count: int) -> Rows:
        """Rows of `count` items, int64 `[count]`; BLANK for those unknown."""
        return np.fromiter(map(self._rows.get, items, repeat(BLANK)), dtype=np.int64, count=count)

    def code(self, item: str) -> int:
        """The row of an item, from now on its own: one that the catalogue does not know is as blank as row 0."""
        row = self._rows.get(item)
        return self._new_row(item) if row is None else row

    def all_codes(self, items: Sequence[str]) -> list[int]:
        """The rows of some items, from now on their own."""
        rows = [row for row in map(self._rows.get, items) if row is not None]
        return rows if len(rows) == len(items) else [self.code(item) for item in items]

    def _new_row(self, item: str) -> int:
        row = self._rows[item] = self._held
        self._held += 1
        self._make_room()
        return row

    def put(self, item: str, attributes: Mapping[str, Any]) -> None:
        """Replace what is held of an item; without attributes, forget it."""
        row = self._rows.get(item)
        if row is None:
            if not attributes:
                return
            row = self._new_row(item)
        for name in self.needs.numbers:
            self._put_number(name, row, as_number(attributes.get(name)))
        for name in self.needs.times:
            self.times_ms[name][row] = as_time_ms(attributes.get(name))
        for name in self.needs.codes:
            self._put_codes(name, row, as_values(attributes.get(name)))
        for name in self.needs.terms:
            self._put_terms(name, row, term_ids(attributes.get(name)))
        for name in self.needs.vectors:
            self._put_vector(name, row, as_vector(attributes.get(name)))

    def idf(self, name: str, terms: Terms) -> Numbers:
        """How rare terms are: `log((1 + texts) / (1 + texts with the term)) + 1`, 0 for MISSING; float64 like
        `terms`."""
        held = self._log_texts[name]
        rarity: Numbers = held[-1] - held.take(terms)
        return rarity

    def looked_up(self, keys: Rows, values: Numbers, terms: Terms) -> Numbers:
        """The value of each term that is among the keys, 0 for others: float64 like `terms`."""
        # A table of all terms is several times quicker than a search in a list of a few.
        self._table[keys] = values
        found: Numbers = self._table.take(terms)
        self._table[keys] = 0.0
        return found

    def _put_number(self, name: str, row: int, value: float) -> None:
        column, scale = self.numbers[name], self.scales[name]
        if not math.isnan(column[row]):
            scale.add(float(column[row]), -1)
        column[row] = value
        self.buckets[name][row] = NO_BUCKET if math.isnan(value) else scale.bucket(value)
        if not math.isnan(value):
            scale.add(value, 1)

    def _put_codes(self, name: str, row: int, values: Sequence[str]) -> None:
        known = self.code_of[name]
        column = self._wide_enough(self.codes, name, len(values))
        column[row] = MISSING
        column[row, : len(values)] = [known.setdefault(value, len(known)) for value in values]

    def _put_terms(self, name: str, row: int, ids: Sequence[int]) -> None:
        column, texts = self._wide_enough(self.terms, name, len(ids)), self._texts[name]
        before = column[row][column[row] >= 0]
        texts[before] -= 1
        texts[-1] -= len(before) > 0
        column[row] = MISSING
        column[row, : len(ids)] = ids
        texts[list(ids)] += 1
        texts[-1] += len(ids) > 0
        changed = [*before.tolist(), *ids, _ALL_TEXTS]
        rarity = self._log_texts[name]
        rarity[changed] = np.log1p(texts[changed])
        rarity[-1] = rarity[_ALL_TEXTS] + 1.0

    def _wide_enough(self, columns: dict[str, NDArray[np.int32]], name: str, width: int) -> NDArray[np.int32]:
        column = columns[name]
        if column.shape[1] < width:
            more = np.full((len(column), width - column.shape[1]), MISSING, dtype=np.int32)
            column = columns[name] = np.concatenate([column, more], axis=1)
        return column

    def _put_vector(self, name: str, row: int, vector: NDArray[np.float32]) -> None:
        by_length, length = self.vectors[name], len(vector)
        for held in by_length.values():
            held[row] = 0.0
        if length:
            if length not in by_length:
                by_length[length] = np.zeros((self._size(), length), dtype=np.float32)
            by_length[length][row] = vector

    def _size(self) -> int:
        size = _FIRST_ROWS
        while size < self._held:
            size *= 2
        return size

    def _make_room(self) -> None:
        size = self._size()
        by_blank: list[tuple[dict[Any, Any], float]] = [
            (self.numbers, np.nan),
            (self.times_ms, np.nan),
            (self.buckets, NO_BUCKET),
            (self.codes, MISSING),
            (self.terms, MISSING),
            *((by_length, 0.0) for by_length in self.vectors.values()),
        ]
        for columns, blank in by_blank:
            for name, column in columns.items():
                if len(column) < size:
                    more = np.full((size - len(column), *column.shape[1:]), blank, dtype=column.dtype)
                    columns[name] = np.concatenate([column, more])


def as_number(value: object) -> float:
    """A number as JSON tells it, as itself or as text; NaN where it is none.

    >>> as_number(3), as_number("9.50"), as_number(True), as_number("cheap")
    (3.0, 9.5, 1.0, nan)
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) <= _LARGEST else math.nan


def as_values(value: object) -> list[str]:
    """The distinct values of an attribute of one or several, as texts; at most VALUES_KEPT.

    >>> as_values("DELI"), as_values(["Drama", "War", "Drama"]), as_values(True), as_values(None)
    (['DELI'], ['Drama', 'War'], ['true'], [])
    """
    values = value if isinstance(value, list) else [value]
    return list(dict.fromkeys([as_text(one) for one in values if one is not None and one != ""]))[:VALUES_KEPT]


def as_text(value: object) -> str:
    """One value as text, a truth value as JSON writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def term_ids(value: object) -> list[int]:
    """The distinct words of a text (or of several), hashed to TERM_BITS bits; at most TERMS_KEPT.

    >>> term_ids("Toy Story") == term_ids("toy, STORY!"), len(term_ids("a b a"))
    (True, 2)
    """
    texts = value if isinstance(value, list) else [value]
    words = [word for text in texts if isinstance(text, str) for word in _WORD.findall(text.lower())]
    ids = [xxh3_64_intdigest(word.encode()) & ((1 << TERM_BITS) - 1) for word in words]
    return list(dict.fromkeys(ids))[:TERMS_KEPT]


def as_vector(value: object) -> NDArray[np.float32]:
    """A list of finite numbers as a float32 vector of length 1; empty where it is none."""
    nothing = np.zeros(0, dtype=np.float32)
    if not isinstance(value, list) or not value:
        return nothing
    try:
        vector = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return nothing
    size = float(np.linalg.norm(vector)) if vector.ndim == 1 else math.nan
    return (vector / size).astype(np.float32) if math.isfinite(size) and size > 0 else nothing


def as_time_ms(value: object) -> float:
    """Epoch milliseconds of RFC 3339 text, a date, or epoch milliseconds; NaN where it is none.

    >>> as_time_ms("2026-01-01T00:00:00Z"), as_time_ms("2026-01-01"), as_time_ms(1767225600000), as_time_ms("soon")
    (1767225600000.0, 1767225600000.0, 1767225600000.0, nan)
    """
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return math.nan
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return float(round(moment.timestamp() * 1000))
    return as_number(value)
