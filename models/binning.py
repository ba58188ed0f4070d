"""Features to bins: what lets a linear learner bend, and take missing and huge values in its stride.

Each feature's range is cut at its edges (`tables.features.Feature.edges`); a value falls in the bin that
counts the edges at or below it, and a missing value (NaN) in one of its own after them. A bin's key is
`feature_index * STRIDE + bin`, so that a row of F features is a set of F keys.
"""

import numpy as np
from numpy.typing import NDArray

from persona_stream.vocabulary.errors import ModelError
from tables.counters import Floats
from tables.features import FEATURES

WIDTH = len(FEATURES)
STRIDE = 16
"""Bin keys set aside for a feature: a power of two above the most edges plus two."""

Keys = NDArray[np.int64]

_DEEPEST = max(len(feature.edges) for feature in FEATURES)
if _DEEPEST + 2 > STRIDE:
    raise ModelError(f"a feature has {_DEEPEST} edges; {STRIDE - 2} fit.", hint="Raise models.binning.STRIDE.")


def _edge_rows() -> Floats:
    # Nothing is at or above NaN: the padding of features with fewer edges never counts.
    rows = np.full((_DEEPEST, WIDTH), np.nan, dtype=np.float32)
    for column, feature in enumerate(FEATURES):
        rows[: len(feature.edges), column] = feature.edges
    return rows


_EDGE_ROWS = _edge_rows()
_FIRST_KEYS = np.arange(WIDTH, dtype=np.int64) * STRIDE
_MISSING_BINS = np.array([len(feature.edges) + 1 for feature in FEATURES], dtype=np.uint8)


def bin_keys(features: Floats) -> Keys:
    """The bin key of each value: float32 `[n, F]` to int64 `[n, F]`.

    >>> row = np.full((1, WIDTH), 1.0, dtype=np.float32)
    >>> bin_keys(row)[0, :3].tolist()
    [2, 18, 34]
    >>> row[0, 0] = np.nan
    >>> bin_keys(row)[0, :3].tolist()
    [12, 18, 34]
    """
    # Counting edges one level at a time over all columns: 43 us for 100 rows, a search per column takes 65 us.
    bins = np.zeros(features.shape, dtype=np.uint8)
    for edges in _EDGE_ROWS:
        bins += features >= edges
    missing = np.isnan(features)
    if missing.any():
        bins = np.where(missing, _MISSING_BINS, bins)
    keys: Keys = bins + _FIRST_KEYS
    return keys
