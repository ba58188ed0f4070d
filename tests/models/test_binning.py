"""Every value falls in the bin that counts the edges at or below it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.binning import STRIDE, bin_keys
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ModelError
from tables.feature_set import FeatureSet
from tables.features.plan import feature_set

FEATURES = feature_set(Settings())
WIDTH = FEATURES.width

float32s = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(float32s, min_size=WIDTH, max_size=WIDTH))
def test_a_key_is_the_features_place_and_a_binary_search_over_its_edges(values: list[float]) -> None:
    row = np.array([values], dtype=np.float32)
    for column, cuts in enumerate(FEATURES.edges):
        edges = np.array(cuts, dtype=np.float32)
        value = row[0, column]
        slot = len(edges) + 1 if np.isnan(value) else int(np.searchsorted(edges, value, side="right"))
        assert bin_keys(row, FEATURES)[0, column] == column * STRIDE + slot


def test_keys_of_different_features_never_meet() -> None:
    smallest, largest, missing = (
        bin_keys(np.full((1, WIDTH), value, dtype=np.float32), FEATURES)[0] for value in (-np.inf, np.inf, np.nan)
    )
    assert (smallest < largest).all()
    assert (largest < missing).all()
    assert (missing[:-1] < smallest[1:]).all()


def test_rows_are_not_changed() -> None:
    rows = np.full((2, WIDTH), np.nan, dtype=np.float32)
    rows.flags.writeable = False
    assert bin_keys(rows, FEATURES).shape == (2, WIDTH)


def test_each_set_is_cut_at_its_own_edges() -> None:
    coarse = FeatureSet(names=("a", "b"), edges=((1.0,), ()), hash="coarse")
    fine = FeatureSet(names=("a", "b", "c"), edges=((0.5, 1.0), (2.0,), (0.0,)), hash="fine")
    row = np.array([[1.0, 3.0, -1.0]], dtype=np.float32)
    for _ in range(2):
        assert bin_keys(row[:, :2], coarse).tolist() == [[1, STRIDE]]
        assert bin_keys(row, fine).tolist() == [[2, STRIDE + 1, 2 * STRIDE]]
    assert bin_keys(np.full((1, 2), np.nan, dtype=np.float32), coarse).tolist() == [[2, STRIDE + 1]]


def test_as_many_edges_as_there_are_keys_for() -> None:
    row = np.full((1, 1), np.nan, dtype=np.float32)
    most = FeatureSet(names=("a",), edges=(tuple(map(float, range(STRIDE - 2))),), hash="most")
    assert bin_keys(row, most).tolist() == [[STRIDE - 1]]
    too_many = FeatureSet(names=("a",), edges=(tuple(map(float, range(STRIDE - 1))),), hash="too many")
    with pytest.raises(ModelError, match="a feature has 15 edges; 14 fit"):
        bin_keys(row, too_many)
