"""Every value falls in the bin that counts the edges at or below it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.binning import STRIDE, WIDTH, bin_keys
from tables.features import FEATURES

float32s = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(float32s, min_size=WIDTH, max_size=WIDTH))
def test_a_key_is_the_features_place_and_a_binary_search_over_its_edges(values: list[float]) -> None:
    row = np.array([values], dtype=np.float32)
    for column, feature in enumerate(FEATURES):
        edges = np.array(feature.edges, dtype=np.float32)
        value = row[0, column]
        slot = len(edges) + 1 if np.isnan(value) else int(np.searchsorted(edges, value, side="right"))
        assert bin_keys(row)[0, column] == column * STRIDE + slot


def test_keys_of_different_features_never_meet() -> None:
    smallest, largest, missing = (
        bin_keys(np.full((1, WIDTH), value, dtype=np.float32))[0] for value in (-np.inf, np.inf, np.nan)
    )
    assert (smallest < largest).all()
    assert (largest < missing).all()
    assert (missing[:-1] < smallest[1:]).all()


def test_rows_are_not_changed() -> None:
    rows = np.full((2, WIDTH), np.nan, dtype=np.float32)
    rows.flags.writeable = False
    assert bin_keys(rows).shape == (2, WIDTH)
