"""The online learner: River's logistic regression over binned features, one gradient step a row as rows pass.

The probabilities it gives are those of the stream it learned from. Where only a share `r` of the negatives
reached it (sampled negatives), its odds are too high by `1 / r`: the order of candidates is right as it is,
and a probability `p` reads as `r * p / (r * p + 1 - p)`.

The learning rate falls as `t ** -0.25`: slowly enough to follow drift, and on real click and basket logs its
order was as good as AdaGrad's at a third of the time.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from river import linear_model, optim
from river.utils import VectorDict

from models.binning import STRIDE, bin_keys
from models.evaluation import auc_of_histograms
from persona_stream.vocabulary.messages import Example
from tables.counters import Floats
from tables.feature_set import FeatureSet
from tables.learner import SCORE_BINS, LearnerState, OnlineState

_FIRST_RATE, _RATE_POWER, _INTERCEPT_RATE = 0.1, 0.25, 0.01
# Log-odds in [-8, 8) by quarters, that is probabilities from 0.0003 to 0.9997: as fine for rare clicks.
_SCORE_BINS_PER_UNIT = 4
# River's own bound: beyond it, its probability is 0 or 1.
_LARGEST_LOGIT = 30.0

Probabilities = NDArray[np.float64]


class _BinnedRegression(linear_model.LogisticRegression):
    """River's logistic regression, restored from data, that remembers the log-odds each step started from."""

    def __init__(self, state: OnlineState) -> None:
        super().__init__(
            optimizer=optim.SGD(optim.schedulers.InverseScaling(_FIRST_RATE, _RATE_POWER)),
            intercept_lr=_INTERCEPT_RATE,
            intercept_init=state.intercept,
        )
        self._weights = VectorDict(state.weights, copy=True)
        self.optimizer.n_iterations = state.examples
        self.log_odds = 0.0

    def _raw_dot_one(self, x: dict[int, float]) -> float:
        self.log_odds = super()._raw_dot_one(x)
        return self.log_odds


class Quality(Struct, frozen=True):
    """How well each row was predicted just before it was learned (prequential; Gama et al. 2013)."""

    examples: int
    positives: int
    log_loss: float
    auc: float
    """Area under the ROC curve, from the histograms; NaN until both labels were seen."""


def learn(
    state: OnlineState,
    rows: Floats,
    labels: NDArray[np.integer],
    feature_set: FeatureSet,
    weights: Sequence[float] | None = None,
) -> Probabilities:
    """Learn rows in their order, one step each; returns the probability (float64 `[n]`) before each.

    `rows` is float32 `[n, F]`, `labels` `[n]`: above 0 is positive; `weights`: how large the step of each is, by
    default 1. `state` is changed in place, and any cut of the same rows into calls leaves the same state to the last
    bit. What is counted of rows and their loss goes without weights.
    """
    model = _BinnedRegression(state)
    loss_sum = state.log_loss_sum
    log_odds: list[float] = []
    positive = labels > 0
    each = zip(bin_keys(rows, feature_set).tolist(), positive.tolist(), weights or repeat(1.0, len(rows)), strict=True)
    for keys, outcome, weight in each:
        model.learn_one(dict.fromkeys(keys, 1.0), outcome, weight)
        log_odds.append(model.log_odds)
        loss_sum += _log_loss(model.log_odds, outcome)
    state.weights = model.weights
    state.intercept = float(model.intercept)
    state.examples += len(log_odds)
    state.positives += int(positive.sum())
    state.log_loss_sum = loss_sum
    before = np.array(log_odds, dtype=np.float64)
    _count_scores(state.positive_scores, before[positive])
    _count_scores(state.negative_scores, before[~positive])
    return _probabilities(before)


def fold_examples(state: LearnerState, examples: Sequence[tuple[int, Example]], feature_set: FeatureSet) -> None:
    """Learn from one partition's records, (offset, example) in offset order.

    What was applied before is skipped, be it the record or the same example written a second time. Weights that
    belong to other features than these are dropped: their keys would mean something else.
    """
    if state.feature_hash != feature_set.hash:
        state.feature_hash, state.online = feature_set.hash, OnlineState()
    fresh: list[Example] = []
    for offset, example in examples:
        if offset > state.applied:
            state.applied = offset
            if _is_first(state.sources, example):
                fresh.append(example)
    usable = [example for example in fresh if _is_usable(example, feature_set)]
    state.refused += len(fresh) - len(usable)
    if usable:
        rows = np.frombuffer(b"".join(example.features for example in usable), dtype=np.float32)
        labels = np.array([label for example in usable for label in example.labels], dtype=np.int64)
        weights = [weight for example in usable for weight in example.weights or [1.0] * len(example.items)]
        learn(state.online, rows.reshape(-1, feature_set.width), labels, feature_set, weights)


def quality(state: OnlineState) -> Quality:
    """The learner's quality over all it has learned from."""
    mean_loss = state.log_loss_sum / state.examples if state.examples else math.nan
    auc = auc_of_histograms(np.array(state.positive_scores), np.array(state.negative_scores))
    return Quality(state.examples, state.positives, mean_loss, auc)


class OnlineScorer:
    """Scores whole lists with the learners of all partitions: the mean of their weights, by examples seen.

    Learners of other features are left out. `examples` says how much stands behind a score; 0: nothing was
    learned.
    """

    def __init__(self, states: Iterable[LearnerState], feature_set: FeatureSet) -> None:
        self._feature_set = feature_set
        online = [s.online for s in states if s.feature_hash == feature_set.hash and s.online.examples]
        self.examples = sum(state.examples for state in online)
        self._weights = np.zeros(feature_set.width * STRIDE)
        self._intercept = 0.0
        for state in online:
            share = state.examples / self.examples
            keys = np.fromiter(state.weights.keys(), dtype=np.int64, count=len(state.weights))
            self._weights[keys] += share * np.fromiter(state.weights.values(), dtype=np.float64, count=len(keys))
            self._intercept += share * state.intercept

    def predict(self, features: Floats) -> Probabilities:
        """Probability of a positive outcome for each row: float32 `[n, F]` to float64 `[n]`."""
        return _probabilities(self.contributions(features).sum(axis=1) + self._intercept)

    def contributions(self, features: Floats) -> NDArray[np.float64]:
        """What each feature adds to a row's log-odds: float32 `[n, F]` to float64 `[n, F]`."""
        added: NDArray[np.float64] = self._weights[bin_keys(features, self._feature_set)]
        return added


def _is_first(sources: dict[int, int], example: Example) -> bool:
    if example.source_partition < 0:
        return True
    if example.source_offset <= sources.get(example.source_partition, -1):
        return False
    sources[example.source_partition] = example.source_offset
    return True


def _is_usable(example: Example, feature_set: FeatureSet) -> bool:
    rows = len(example.labels)
    is_of_set = example.feature_hash == feature_set.hash
    fits = len(example.features) == 4 * rows * feature_set.width and len(example.weights) in (0, rows)
    return is_of_set and rows > 0 and fits


def _log_loss(log_odds: float, positive: bool) -> float:
    margin = log_odds if positive else -log_odds
    return math.log1p(math.exp(-margin)) if margin > -_LARGEST_LOGIT else -margin


def _count_scores(histogram: list[int], log_odds: Probabilities) -> None:
    slots = np.floor(log_odds * _SCORE_BINS_PER_UNIT).astype(np.int64) + SCORE_BINS // 2
    counts = np.bincount(np.clip(slots, 0, SCORE_BINS - 1), minlength=SCORE_BINS)
    histogram[:] = [held + new for held, new in zip(histogram, counts.tolist(), strict=True)]


def _probabilities(log_odds: Probabilities) -> Probabilities:
    probabilities: Probabilities = 1.0 / (1.0 + np.exp(-np.clip(log_odds, -_LARGEST_LOGIT, _LARGEST_LOGIT)))
    return probabilities
