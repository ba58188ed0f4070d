"""Values of attributes compared by their codes: what of a list's items is among what a user had to do with."""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tables.features.attributes import MISSING, AttributeColumns
from tables.features.blocks import Flags, Indices, Numbers, Rows
from tables.features.user_columns import counted

_TABLE = 1 << 16
_TABLE_PER_KEY, _TABLE_MOST = 16, 1 << 22
"""Counts are looked up in a table while it is small, or not much larger than what is counted; else searched for."""

Codes = NDArray[np.int32]


class Told(Struct, frozen=True):
    """The values of m items that users had to do with, one after another."""

    at: Indices
    """Of each value, which of the m items has it."""
    user: Indices
    """Whose item that is."""
    code: Codes
    has_any: Flags
    """Of each item, whether it has a value; bool `[m]`."""


def told_of(codes: Codes, user: Indices) -> Told:
    """The values of items: `codes` `[m, values]` and `user` `[m]`."""
    known = codes >= 0
    at = known.nonzero()[0]
    return Told(at, user.take(at), codes[known], known[:, 0])


class AskedCodes:
    """The codes of each row's item, so that those of other items can be counted among them; kept with the rows."""

    def __init__(self, rows: Rows, attribute: str) -> None:
        self._codes = rows.attributes.codes[attribute].take(rows.item, 0).T
        self._stride = len(rows.attributes.code_of[attribute]) + 1
        self._users = len(rows.sizes)
        # A missing code is -1: the last cell of the user before, or of all, which nothing is counted at.
        wanted: Indices = self._codes.astype(np.int64, order="C")
        self._wanted = wanted if self._users == 1 else wanted + rows.question * self._stride

    @property
    def has_any(self) -> Flags:
        """Whether each item has the attribute, bool `[n]`."""
        has_any: Flags = self._codes[0] >= 0
        return has_any

    @property
    def count(self) -> Indices:
        """How many values each item has, int64 `[n]`."""
        count: Indices = np.add.reduce(self._codes >= 0, 0)
        return count

    def shared(self, told: Told, chosen: Flags) -> Numbers:
        """How often each row's codes are among those of some items of its user, float64 `[k, n]`.

        `chosen` `[k, m]` says which of the items told of are looked at. All k together cost little more than one.
        """
        if not len(told.at):
            return np.zeros((len(chosen), self._wanted.shape[1]))
        looked_at = chosen.take(told.at, 1)
        keys = told.user * self._stride + told.code
        cells = self._users * self._stride
        total = len(chosen) * cells
        if total <= _TABLE or (cells <= _TABLE_MOST and total <= _TABLE_PER_KEY * looked_at.size):
            times = counted(keys, looked_at, cells).take(self._wanted, 1)
        else:
            times = np.array([self._searched(np.sort(keys[one])) for one in looked_at])
        shared: Numbers = np.add.reduce(times, 1, dtype=np.float64)
        return shared

    def _searched(self, keys: Indices) -> Indices:
        return np.searchsorted(keys, self._wanted, side="right") - np.searchsorted(keys, self._wanted)


def asked_codes(rows: Rows, attribute: str) -> AskedCodes:
    """The codes of the rows' items, worked out once for all features of an attribute."""
    held = rows.derived.get(("asked", attribute))
    if held is None:
        held = rows.derived["asked", attribute] = AskedCodes(rows, attribute)
    assert isinstance(held, AskedCodes)
    return held


def visited_codes(rows: Rows, attribute: str) -> Told:
    """The values of the items in `rows.history`; worked out once."""
    held = rows.derived.get(("visited", attribute))
    if held is None:
        history = rows.history
        held = told_of(rows.attributes.codes[attribute].take(history.item, 0), history.user)
        rows.derived["visited", attribute] = held
    assert isinstance(held, Told)
    return held


def codes_of(attributes: AttributeColumns, attribute: str, values: list[str]) -> Codes:
    """Codes of values, int32 `[m, 1]`; MISSING for those that no item has."""
    code_of = attributes.code_of[attribute]
    return np.array([code_of.get(value, MISSING) for value in values], dtype=np.int32).reshape(-1, 1)
