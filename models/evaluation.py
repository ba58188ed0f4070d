"""Measures of rankings and of probabilities, by the column: no loop over groups.

Lists stand one after another in flat arrays; `sizes` says how many rows each has. Equal scores are no order:
measures take the mean over all orders of the tied rows (McSherry & Najork 2008, ECIR), so that a rule which
scores most items alike gains nothing from the order in which rows were logged.
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Integers = NDArray[np.int64]

_SMALLEST_PROBABILITY = 1e-15
# Resampled means computed at a time: bounds memory at 64 values for each group.
_RESAMPLES_AT_ONCE = 64


class Interval(Struct, frozen=True):
    """A mean and the bounds that hold it at the level asked for; as text, `mean [low, high]`."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


class _Ranking(Struct):
    """Rows in descending order of score within each list; a block is a run of rows with one score."""

    order: Integers
    group: Integers
    rank: Integers
    block: Integers
    block_group: Integers


def ndcg_at_k(labels: Integers, scores: Numbers, sizes: Integers, k: int = 10) -> Numbers:
    """Normalized discounted cumulative gain of each list's first `k` places, float64 `[len(sizes)]`.

    The gain of a label is `2 ** label - 1`, the discount of place 1, 2, ... `1 / log2(place + 1)` (Burges et
    al. 2005); NaN for a list without a positive label.

    >>> ndcg_at_k(np.array([0, 1, 0, 1]), np.array([3.0, 2.0, 1.0, 0.0]), np.array([4])).round(4).tolist()
    [0.6509]
    >>> ndcg_at_k(np.array([1, 0]), np.array([0.5, 0.5]), np.array([2]), k=1).tolist()
    [0.5]
    """
    gains = np.exp2(labels) - 1.0
    ranking = _rank(scores, sizes)
    discounts = _discounts(ranking.rank, k)
    shared = _block_means(discounts, ranking)
    found = _sum_groups(gains[ranking.order] * shared, ranking.group, sizes)
    ideal = _rank(gains, sizes)
    best = _sum_groups(gains[ideal.order] * _discounts(ideal.rank, k), ideal.group, sizes)
    ndcg: Numbers = np.divide(found, best, out=np.full(len(sizes), np.nan), where=best > 0)
    return ndcg


def hit_rate_at_k(labels: Integers, scores: Numbers, sizes: Integers, k: int = 10) -> Numbers:
    """Probability that a positive stands in each list's first `k` places, float64 `[len(sizes)]`.

    Without ties it is 0 or 1; a block of ties cut by place `k` counts by the chance that a drawn row is
    positive.

    >>> hit_rate_at_k(np.array([0, 0, 1]), np.array([3.0, 2.0, 1.0]), np.array([3]), k=2).tolist()
    [0.0]
    >>> hit_rate_at_k(np.array([0, 0, 0, 1]), np.zeros(4), np.array([4]), k=1).round(4).tolist()
    [0.25]
    """
    ranking = _rank(scores, sizes)
    blocks = len(ranking.block_group)
    members = np.bincount(ranking.block, minlength=blocks)
    positives = np.bincount(ranking.block, weights=labels[ranking.order] > 0, minlength=blocks).astype(np.int64)
    first_rank = ranking.rank[np.flatnonzero(np.diff(ranking.block, prepend=-1))]
    drawn = np.clip(k - first_rank, 0, members)
    missed = _sum_groups(_log_chance_of_none(members, positives, drawn), ranking.block_group, sizes)
    return 1.0 - np.exp(missed)


def auc(labels: Integers, scores: Numbers) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half.

    NaN with one label only.

    >>> auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    1.0
    >>> auc(np.array([0, 1, 1]), np.array([0.5, 0.5, 0.9]))
    0.75
    """
    values, slots = np.unique(scores, return_inverse=True)
    positive = labels > 0
    return auc_of_histograms(
        np.bincount(slots[positive], minlength=len(values)),
        np.bincount(slots[~positive], minlength=len(values)),
    )


def auc_of_histograms(positives: NDArray[np.integer], negatives: NDArray[np.integer]) -> float:
    """Area under the ROC curve from counts by ascending score; rows of one bin are ties.

    >>> auc_of_histograms(np.array([0, 1, 3]), np.array([5, 2, 0]))
    0.9642857142857143
    """
    pairs = float(positives.sum()) * float(negatives.sum())
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs)


def log_loss(labels: Integers, probabilities: Numbers) -> float:
    """Mean negative log likelihood, in nats.

    >>> round(log_loss(np.array([1, 0]), np.array([0.9, 0.2])), 4)
    0.1643
    """
    sure = np.clip(probabilities, _SMALLEST_PROBABILITY, 1.0 - _SMALLEST_PROBABILITY)
    return float(-np.where(labels > 0, np.log(sure), np.log1p(-sure)).mean())


def bootstrap_interval(values: Numbers, *, seed: int, resamples: int = 1000, level: float = 0.95) -> Interval:
    """The mean of `values` with its percentile bootstrap interval (Efron 1979).

    The same seed gives the same interval.

    >>> print(bootstrap_interval(np.arange(100.0), seed=1))
    49.5000 [43.6197, 54.9200]
    """
    random = np.random.default_rng(seed)
    means: list[Numbers] = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        drawn = random.integers(0, len(values), size=(min(_RESAMPLES_AT_ONCE, resamples - start), len(values)))
        means.append(values[drawn].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _rank(scores: Numbers, sizes: Integers) -> _Ranking:
    group = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((-scores, group))
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(group)) - starts[group]
    ordered = scores[order]
    # Groups stand in order already: row i of `order` belongs to group[i].
    opens_block = (rank == 0) | (np.diff(ordered, prepend=np.nan) != 0)
    return _Ranking(order, group, rank, np.cumsum(opens_block) - 1, group[opens_block])


def _discounts(rank: Integers, k: int) -> Numbers:
    return np.where(rank < k, 1.0 / np.log2(rank + 2.0), 0.0)


def _block_means(values: Numbers, ranking: _Ranking) -> Numbers:
    means: Numbers = np.bincount(ranking.block, weights=values) / np.bincount(ranking.block)
    return means[ranking.block]


def _sum_groups(values: Numbers, group: Integers, sizes: Integers) -> Numbers:
    return np.asarray(np.bincount(group, weights=values, minlength=len(sizes)), dtype=np.float64)


def _log_chance_of_none(members: Integers, positives: Integers, drawn: Integers) -> Numbers:
    """log of C(members - positives, drawn) / C(members, drawn): none of the drawn rows is positive."""
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, members.max(initial=0) + 1)))])
    negatives = members - positives
    possible = negatives >= drawn
    left = np.where(possible, negatives - drawn, 0)
    ways = log_factorials[negatives] - log_factorials[left] - log_factorials[members] + log_factorials[members - drawn]
    return np.where(possible, ways, -np.inf)
