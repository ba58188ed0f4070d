"""Values of attributes compared by their codes: what of a list's items is among what a user had to do with."""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tables.features.attributes import MISSING, AttributeColumns
from tables.features.blocks import Flags, Indices, Numbers, Rows

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
    at = np.nonzero(known)[0]
    return Told(at, user[at], codes[known], known[:, 0])


class AskedCodes:
    """The codes of each row's item, so that those of other items can be counted among them; kept with the rows."""

    def __init__(self, rows: Rows, attribute: str) -> None:
        codes = rows.attributes.codes[attribute][rows.item]
        # Missing codes are -1: with one added they are 0, which nothing is counted at.
        self._stride = len(rows.attributes.code_of[attribute]) + 1
        self._users = len(rows.sizes)
        self._wanted = codes + 1
        if self._users > 1:
            self._wanted = self._wanted + (rows.question * self._stride)[:, None]
        known = codes >= 0
        self.has_any: Flags = known[:, 0]
        """Whether the item has the attribute."""
        self.count: Indices = known.sum(axis=1)
        """How many values it has."""

    def shared(self, told: Told, chosen: Flags) -> Numbers:
        """How often each row's codes are among those of some items of its user, float64 `[k, n]`.

        `chosen` `[k, m]` says which of the items told of are looked at. All k together cost little more than one.
        """
        if not len(told.at):
            return np.zeros((len(chosen), len(self._wanted)))
        looked_at = chosen[:, told.at]
        keys = told.user * self._stride + told.code + 1
        cells = self._users * self._stride
        total = len(chosen) * cells
        if total <= _TABLE or (cells <= _TABLE_MOST and total <= _TABLE_PER_KEY * looked_at.size):
            keys = (keys + np.arange(0, total, cells)[:, None])[looked_at]
            times = np.bincount(keys, minlength=total).reshape(len(chosen), cells)[:, self._wanted].sum(axis=2)
        else:
            times = np.array([self._searched(np.sort(keys[one])) for one in looked_at])
        shared: Numbers = times.astype(np.float64)
        return shared

    def _searched(self, keys: Indices) -> Indices:
        times = np.searchsorted(keys, self._wanted, side="right") - np.searchsorted(keys, self._wanted)
        shared: Indices = times.sum(axis=1)
        return shared


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
        held = told_of(rows.attributes.codes[attribute][history.item], history.user)
        rows.derived["visited", attribute] = held
    assert isinstance(held, Told)
    return held


def codes_of(attributes: AttributeColumns, attribute: str, values: list[str]) -> Codes:
    """Codes of values, int32 `[m, 1]`; MISSING for those that no item has."""
    code_of = attributes.code_of[attribute]
    return np.array([code_of.get(value, MISSING) for value in values], dtype=np.int32).reshape(-1, 1)
