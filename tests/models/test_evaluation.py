"""Measures against scikit-learn and against counting by hand."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from models.evaluation import auc, auc_of_histograms, bootstrap_interval, hit_rate_at_k, log_loss, ndcg_at_k

Lists = list[list[tuple[int, int]]]
# Few distinct scores: most lists have ties.
row = st.tuples(st.integers(0, 3), st.integers(0, 4))
lists = st.lists(st.lists(row, min_size=2, max_size=9), min_size=1, max_size=5)


def _flat(made: Lists) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    labels = np.array([label for rows in made for label, _ in rows], dtype=np.int64)
    scores = np.array([score for rows in made for _, score in rows], dtype=np.float64)
    return labels, scores, np.array([len(rows) for rows in made], dtype=np.int64)


@settings(deadline=None)
@given(lists, st.integers(1, 10))
def test_ndcg_is_scikit_learns_with_exponential_gains(made: Lists, k: int) -> None:
    found = ndcg_at_k(*_flat(made), k)
    for rows, ndcg in zip(made, found, strict=True):
        gains = [2**label - 1 for label, _ in rows]
        if any(gains):
            assert ndcg == pytest.approx(ndcg_score([gains], [[score for _, score in rows]], k=k), abs=1e-12)
        else:
            assert np.isnan(ndcg)


@settings(deadline=None, max_examples=60)
@given(st.lists(row, min_size=1, max_size=6), st.integers(1, 7))
def test_hit_rate_is_the_mean_over_all_orders_of_ties(rows: list[tuple[int, int]], k: int) -> None:
    orders = [sorted(order, key=lambda r: -r[1]) for order in permutations(rows)]
    expected = np.mean([any(label > 0 for label, _ in order[:k]) for order in orders])
    assert hit_rate_at_k(*_flat([rows]), k)[0] == pytest.approx(expected, abs=1e-9)


def test_lists_do_not_touch_each_other() -> None:
    made = [[(1, 0), (0, 5)], [(0, 5), (1, 7)], [(0, 1), (0, 1), (1, 1)]]
    together = ndcg_at_k(*_flat(made), 1), hit_rate_at_k(*_flat(made), 1)
    np.testing.assert_allclose(together[0], [0.0, 1.0, 1 / 3])
    np.testing.assert_allclose(together[1], [0.0, 1.0, 1 / 3])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=40))
def test_auc_is_scikit_learns(rows: list[tuple[int, int]]) -> None:
    labels, scores, _ = _flat([rows])
    if 0 < labels.sum() < len(labels):
        expected = roc_auc_score(labels, scores)
        assert auc(labels, scores) == pytest.approx(expected, abs=1e-12)
        by_score = [np.bincount(scores[labels == label].astype(int), minlength=7) for label in (1, 0)]
        assert auc_of_histograms(*by_score) == pytest.approx(expected, abs=1e-12)
    else:
        assert np.isnan(auc(labels, scores))


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_log_loss_is_scikit_learns(rows: list[tuple[int, float]]) -> None:
    labels = np.array([label for label, _ in rows])
    probabilities = np.clip([p for _, p in rows], 1e-9, 1 - 1e-9)
    assert log_loss(labels, probabilities) == pytest.approx(
        sklearn_log_loss(labels, probabilities, labels=[0, 1]), rel=1e-6
    )


def test_a_sure_and_wrong_prediction_costs_much_but_not_everything() -> None:
    assert 30 < log_loss(np.array([1]), np.array([0.0])) < 40


def test_the_interval_has_the_width_of_theory_and_repeats() -> None:
    values = np.random.default_rng(2).normal(5.0, 2.0, size=400)
    interval = bootstrap_interval(values, seed=1, resamples=2000)
    half_width = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.high - interval.mean == pytest.approx(half_width, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(half_width, rel=0.1)
    assert interval == bootstrap_interval(values, seed=1, resamples=2000)
    assert interval != bootstrap_interval(values, seed=2, resamples=2000)
