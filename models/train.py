"""Training a ranker from the logged examples: LambdaRank, judged on later time beside simple rules."""

from collections.abc import Collection, Sequence
from importlib.metadata import version

import lightgbm
import msgspec
import numpy as np
import structlog
from msgspec import Struct

from models.evaluation import Interval, Numbers, bootstrap_interval, hit_rate_at_k, ndcg_at_k
from models.export import export_onnx
from models.groups import Dropped, Groups, join_examples
from models.ranker import STRANGERS_PROPERTY
from models.topic_reader import OnProgress, ignore_progress, read_topic
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ModelError
from persona_stream.vocabulary.messages import Example, ModelRecord, decode_example
from persona_stream.vocabulary.topics import Topics
from tables.feature_set import FeatureSet

HELD_OUT_SHARE = 0.2
"""The last share of the time that examples cover is not trained on, but judged on."""
MIN_TRAIN_GROUPS = 50
MIN_HELD_OUT_GROUPS = 10
"""Below these, what is learned and what is measured is noise."""
PLACES = 10
"""Measures look at this many places of each list."""
POPULARITY = ("item_purchases_total", "item_events_total")
PERSONAL_FREQUENCY = ("pair_decayed_60d",)
"""Features that a simple rule can rank by, the best first."""

_TREES = 200
# Least share of the rows in a leaf, within bounds: few rows must be enough, many must not be memorised.
_LEAF_SHARE, _LEAF_LEAST, _LEAF_MOST = 1 / 500, 5, 50

EVENTS_BEFORE = "user_events_total"
"""The feature that tells how much a user had done."""

_log = structlog.get_logger(__name__)


class Measured(Struct, frozen=True):
    """One way of ranking on the held-out groups: means over groups with 95 % bootstrap intervals."""

    ndcg: Interval
    """NDCG@10."""
    hit_rate: Interval
    """HR@10: the share of lists with a positive in the first 10 places."""


class TrainingReport(Struct, frozen=True):
    """What a ranker was trained on, and how it ranks later time beside two simple rules on the very same
    groups. A rule is None where its feature is not among those trained on."""

    ranker: Measured
    popularity: Measured | None
    """Most purchased item first; most used where nothing was purchased."""
    personal_frequency: Measured | None
    """The user's own most frequent item first, each time worth exp(-age / 60 d)."""
    train_groups: int
    held_out_groups: int
    train_rows: int
    held_out_rows: int
    trained_from_ms: int
    held_out_from_ms: int
    held_out_to_ms: int
    dropped: Dropped


class TrainedRanker(Struct, frozen=True):
    """A ranker ready to publish."""

    onnx: bytes
    metadata: dict[str, str]

    def record(self, name: str, version: str, created_ms: int) -> ModelRecord:
        """The registry's record of this ranker."""
        return ModelRecord(name, version, self.onnx, self.metadata, created_ms)


class JudgedRanker(TrainedRanker, frozen=True):
    """One that was tried on time it has not seen."""

    report: TrainingReport


async def read_examples(
    settings: Settings,
    *,
    origins: Collection[str] | None = None,
    on_progress: OnProgress = ignore_progress,
) -> list[Example]:
    """All examples logged so far, by (time, group); only those of `origins`, where given.

    `on_progress` is called with (offsets read, offsets to read). A record that is no example is left out,
    with a warning in the log. Raises as `models.topic_reader.read_topic` does.
    """
    topic = Topics(settings.namespace).examples
    examples: list[Example] = []
    async for records in read_topic(settings, topic, on_progress=on_progress):
        for record in records:
            try:
                example = decode_example(record.value or b"")
            except msgspec.DecodeError as error:
                where = {"topic": topic, "partition": record.partition, "offset": record.offset}
                _log.warning("not an example", error=str(error), **where)
                continue
            if origins is None or example.origin in origins:
                examples.append(example)
    examples.sort(key=lambda example: (example.ts_ms, example.group))
    return examples


def train_ranker(
    examples: Sequence[Example],
    feature_set: FeatureSet,
    *,
    seed: int = 1,
    threads: int = 1,
    on_progress: OnProgress = ignore_progress,
) -> JudgedRanker:
    """Train LambdaRank (Burges 2010) on the first 80 % of time, judge it on the rest, and export it.

    The same examples and seed give the same model. More `threads` help on idle cores only: beside busy ones,
    LightGBM's threads wait for each other, and two were slower than one. `on_progress` is called with (trees,
    trees to grow). Raises ModelError where there are too few groups, or where the exported model does not
    score as the trained one.
    """
    groups, dropped = join_examples(examples, feature_set)
    train, held_out = _split(groups, dropped)
    booster = _grow(train, seed, threads, on_progress)
    report = _judge(booster, train, held_out, feature_set, dropped, seed)
    trained = _exported(booster, train, feature_set, seed, report)
    return JudgedRanker(trained.onnx, trained.metadata, report)


def fit_ranker(examples: Sequence[Example], feature_set: FeatureSet, *, seed: int = 1) -> TrainedRanker:
    """Train on all examples, to be judged elsewhere. Raises ModelError as `train_ranker` does."""
    groups, dropped = join_examples(examples, feature_set)
    if len(groups) < MIN_TRAIN_GROUPS:
        raise _too_few(len(groups), None, dropped)
    booster = _grow(groups, seed, 1, ignore_progress)
    return _exported(booster, groups, feature_set, seed, None)


def _exported(
    booster: lightgbm.Booster, train: Groups, feature_set: FeatureSet, seed: int, report: TrainingReport | None
) -> TrainedRanker:
    metadata = _metadata(train, feature_set, seed, report)
    return TrainedRanker(export_onnx(booster, train.features, metadata, feature_set), metadata)


def _split(groups: Groups, dropped: Dropped) -> tuple[Groups, Groups]:
    cut = 0
    if len(groups):
        first_ms, last_ms = int(groups.ts_ms[0]), int(groups.ts_ms[-1])
        cut_ms = last_ms - HELD_OUT_SHARE * (last_ms - first_ms)
        cut = int(np.searchsorted(groups.ts_ms, cut_ms))
    if cut < MIN_TRAIN_GROUPS or len(groups) - cut < MIN_HELD_OUT_GROUPS:
        raise _too_few(cut, len(groups) - cut, dropped)
    return groups.slice(0, cut), groups.slice(cut, len(groups))


def _too_few(train: int, held_out: int | None, dropped: Dropped) -> ModelError:
    to_judge = ""
    if held_out is not None:
        to_judge = (
            f" and {held_out} in the last {HELD_OUT_SHARE:.0%} of time to judge on (at least {MIN_HELD_OUT_GROUPS})"
        )
    return ModelError(
        f"too few groups with both a positive and a negative: {train} to train on (at least {MIN_TRAIN_GROUPS})"
        f"{to_judge}. Dropped: {dropped.one_sided} one-sided groups, "
        f"{dropped.other_features} examples of other features, {dropped.malformed} malformed.",
        hint="Publish more events, or backfill examples from the event log.",
    )


def _grow(train: Groups, seed: int, threads: int, on_progress: OnProgress) -> lightgbm.Booster:
    leaf_rows = int(np.clip(len(train.labels) * _LEAF_SHARE, _LEAF_LEAST, _LEAF_MOST))
    parameters: dict[str, object] = {
        "objective": "lambdarank",
        # Small trees, each on some of the rows and features: with dozens of features and a few thousand lists, larger
        # ones learn the lists by heart.
        "num_leaves": 15,
        "learning_rate": 0.05,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "min_data_in_leaf": leaf_rows,
        "seed": seed,
        "deterministic": True,
        # Without it LightGBM times both layouts and takes the faster: the load would change the result.
        "force_row_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }
    # Where all weigh the same there is nothing to tell: LightGBM then takes the way it takes without weights.
    weights = None if (train.weights == 1).all() else np.repeat(train.weights, train.sizes)
    data = lightgbm.Dataset(train.features, train.labels, weight=weights, group=train.sizes, free_raw_data=False)

    def show(environment: lightgbm.callback.CallbackEnv) -> None:
        on_progress(environment.iteration + 1, environment.end_iteration)

    return lightgbm.train(parameters, data, num_boost_round=_TREES, callbacks=[show])


def _judge(
    booster: lightgbm.Booster, train: Groups, held_out: Groups, feature_set: FeatureSet, dropped: Dropped, seed: int
) -> TrainingReport:
    return TrainingReport(
        ranker=_measure(held_out, np.asarray(booster.predict(held_out.features), dtype=np.float64), seed),
        popularity=_measure_rule(held_out, feature_set, POPULARITY, seed),
        personal_frequency=_measure_rule(held_out, feature_set, PERSONAL_FREQUENCY, seed),
        train_groups=len(train),
        held_out_groups=len(held_out),
        train_rows=len(train.labels),
        held_out_rows=len(held_out.labels),
        trained_from_ms=int(train.ts_ms[0]),
        held_out_from_ms=int(held_out.ts_ms[0]),
        held_out_to_ms=int(held_out.ts_ms[-1]),
        dropped=dropped,
    )


def _measure(groups: Groups, scores: Numbers, seed: int) -> Measured:
    return Measured(
        bootstrap_interval(ndcg_at_k(groups.labels, scores, groups.sizes, PLACES), seed=seed),
        bootstrap_interval(hit_rate_at_k(groups.labels, scores, groups.sizes, PLACES), seed=seed),
    )


def _measure_rule(groups: Groups, feature_set: FeatureSet, names: Sequence[str], seed: int) -> Measured | None:
    places = [at for at in map(feature_set.get, names) if at is not None]
    if not places:
        return None
    # Where nothing was purchased, the purchases put nothing in order.
    at = next((at for at in places if groups.features[:, at].any()), places[-1])
    return _measure(groups, groups.features[:, at].astype(np.float64), seed)


def _metadata(train: Groups, feature_set: FeatureSet, seed: int, report: TrainingReport | None) -> dict[str, str]:
    return {
        "objective": "lambdarank",
        "trained_from_ms": str(int(train.ts_ms[0])),
        "trained_to_ms": str(report.held_out_from_ms if report else int(train.ts_ms[-1])),
        "rows": str(len(train.labels)),
        "groups": str(len(train)),
        STRANGERS_PROPERTY: str(_strangers(train, feature_set)),
        "seed": str(seed),
        "code_version": version("persona-stream"),
        "lightgbm_version": lightgbm.__version__,
        "metrics": msgspec.json.encode(report).decode(),
    }


def _strangers(train: Groups, feature_set: FeatureSet) -> int:
    """Lists of users who had done nothing before."""
    column = feature_set.get(EVENTS_BEFORE)
    first = np.cumsum(train.sizes) - train.sizes
    return 0 if column is None else int((train.features[first, column] == 0).sum())
