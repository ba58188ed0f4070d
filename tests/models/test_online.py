"""The online learner: exact under any cut, equal to plain River, right when merged."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river import linear_model, optim
from sklearn.metrics import log_loss, roc_auc_score

from models.binning import bin_keys
from models.online import OnlineScorer, fold_examples, learn, quality
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Example
from tables.features.plan import feature_set
from tables.learner import LearnerState, OnlineState, decode, encode

FEATURES = feature_set(Settings())
WIDTH = FEATURES.width


def _rows(n: int, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    features = random.gamma(1.0, 1.5, size=(n, WIDTH)).astype(np.float32)
    features[random.random((n, WIDTH)) < 0.02] = np.nan
    wish = np.nan_to_num(features[:, 3]) - 2.0 * (np.nan_to_num(features[:, 12]) > 1.2)
    return features, (random.random(n) < 1 / (1 + np.exp(-wish))).astype(np.int64)


def _fresh() -> LearnerState:
    return LearnerState(feature_hash=FEATURES.hash)


def _stored(state: LearnerState) -> LearnerState:
    return decode(encode(state))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 150), max_size=6), st.integers(0, 3))
def test_any_cut_with_the_state_stored_between_gives_the_same_bits(cuts: list[int], seed: int) -> None:
    features, labels = _rows(150, seed)
    whole = LearnerState()
    predicted = learn(whole.online, features, labels, FEATURES)

    cut, parts = LearnerState(), []
    bounds = [0, *sorted(cuts), 150]
    for start, stop in pairwise(bounds):
        cut = _stored(cut)
        parts.append(learn(cut.online, features[start:stop], labels[start:stop], FEATURES))

    assert encode(cut) == encode(whole)
    np.testing.assert_allclose(np.concatenate(parts), predicted, rtol=1e-14)


@pytest.mark.parametrize("weights", [None, [0.0, 0.5, 1.0, 4.0] * 100])
def test_it_is_rivers_logistic_regression_row_by_row(weights: list[float] | None) -> None:
    features, labels = _rows(400)
    river: Any = linear_model.LogisticRegression(
        optim.SGD(optim.schedulers.InverseScaling(0.1, 0.25)), intercept_lr=0.01
    )
    before = []
    each = zip(bin_keys(features, FEATURES).tolist(), labels.tolist(), weights or [1.0] * 400, strict=True)
    for keys, label, weight in each:
        row = dict.fromkeys(keys, 1.0)
        before.append(river.predict_proba_one(row)[True])
        river.learn_one(row, bool(label), weight)

    state = _fresh()
    np.testing.assert_allclose(learn(state.online, features, labels, FEATURES, weights), before, rtol=1e-12)
    assert state.online.weights == river.weights
    assert state.online.intercept == river.intercept

    fresh, _ = _rows(100, seed=9)
    expected = [river.predict_proba_one(dict.fromkeys(keys, 1.0))[True] for keys in bin_keys(fresh, FEATURES).tolist()]
    np.testing.assert_allclose(OnlineScorer([state], FEATURES).predict(fresh), expected, atol=1e-9, rtol=0)


def test_quality_is_that_of_the_predictions_made_before_each_row() -> None:
    features, labels = _rows(3000)
    state = OnlineState()
    predicted = learn(state, features, labels, FEATURES)
    found = quality(state)
    assert (found.examples, found.positives) == (3000, labels.sum())
    assert found.log_loss == pytest.approx(log_loss(labels, predicted), rel=1e-9)
    assert found.auc == pytest.approx(roc_auc_score(labels, predicted), abs=0.01)
    assert found.auc > 0.65


def test_a_learner_that_saw_nothing_says_so() -> None:
    found = quality(OnlineState())
    assert np.isnan(found.log_loss)
    assert np.isnan(found.auc)
    scorer = OnlineScorer([LearnerState()], FEATURES)
    assert scorer.examples == 0
    assert scorer.predict(np.ones((2, WIDTH), dtype=np.float32)).tolist() == [0.5, 0.5]


def test_partitions_merge_by_the_examples_each_has_seen() -> None:
    features, labels = _rows(400)
    small, large = _fresh(), _fresh()
    learn(small.online, features[:100], labels[:100], FEATURES)
    learn(large.online, features[100:], labels[100:], FEATURES)
    fresh, _ = _rows(50, seed=4)

    def log_odds(states: list[LearnerState]) -> NDArray[np.float64]:
        probability = OnlineScorer(states, FEATURES).predict(fresh)
        return np.log(probability / (1 - probability))

    expected = 0.25 * log_odds([small]) + 0.75 * log_odds([large])
    np.testing.assert_allclose(log_odds([small, large]), expected, rtol=1e-9)


def test_hopeless_scores_stay_probabilities() -> None:
    state = LearnerState(feature_hash=FEATURES.hash, online=OnlineState(weights={0: 1000.0, 1: -1000.0}, examples=1))
    rows = np.zeros((2, WIDTH), dtype=np.float32)
    rows[1, 0] = 0.5
    assert OnlineScorer([state], FEATURES).predict(rows) == pytest.approx([1.0, 0.0], abs=1e-12)
    learn(state.online, rows, np.array([0, 1]), FEATURES)
    assert state.online.log_loss_sum > 1900


def test_a_redelivered_record_changes_nothing(make_examples: Callable[..., list[Example]]) -> None:
    records = list(enumerate(make_examples(30)))
    once, twice = LearnerState(), LearnerState()
    fold_examples(once, records, FEATURES)
    fold_examples(twice, records[:20], FEATURES)
    fold_examples(twice, records[10:], FEATURES)
    fold_examples(twice, records, FEATURES)
    assert encode(twice) == encode(once)
    assert once.applied == 29
    assert once.online.examples == 30 * 12


def test_examples_of_other_features_or_shapes_are_counted_not_learned(
    make_examples: Callable[..., list[Example]],
) -> None:
    good, other, cut, unlabelled = make_examples(4)
    other.feature_hash = "0" * 16
    cut.features = cut.features[:-4]
    unlabelled.labels = []
    state, alone = LearnerState(), LearnerState()
    fold_examples(state, list(enumerate([good, other, cut, unlabelled])), FEATURES)
    fold_examples(alone, [(0, good)], FEATURES)
    assert (state.refused, state.applied) == (3, 3)
    assert state.online == alone.online


def test_weights_of_other_features_are_neither_kept_nor_served(
    make_examples: Callable[..., list[Example]],
) -> None:
    records = list(enumerate(make_examples(5)))
    fresh = LearnerState()
    fold_examples(fresh, records, FEATURES)
    old = LearnerState(applied=-1, feature_hash="old", online=OnlineState(weights={3: 9.0}, examples=5))
    assert OnlineScorer([old], FEATURES).examples == 0
    fold_examples(old, records, FEATURES)
    assert old == fresh
    assert old.feature_hash == FEATURES.hash


def test_the_examples_are_not_changed(make_examples: Callable[..., list[Example]]) -> None:
    records = list(enumerate(make_examples(3)))
    before = list(enumerate(make_examples(3)))
    fold_examples(LearnerState(), records, FEATURES)
    assert records == before
