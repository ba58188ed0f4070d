"""What was learned from rows of one feature set has no part under another."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest

from models.groups import join_examples
from models.online import OnlineScorer, fold_examples
from models.ranker import Ranker, trained_features
from models.train import TrainedRanker, TrainingReport, train_ranker
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ModelError
from persona_stream.vocabulary.messages import Example
from tables.feature_set import FeatureSet
from tables.features.plan import feature_set
from tables.learner import LearnerState, encode

MakeExamples = Callable[..., list[Example]]

WHOLE = feature_set(Settings())


def _part(*names: str) -> FeatureSet:
    edges = tuple(WHOLE.edges[WHOLE.index(name)] for name in names)
    return FeatureSet(names, edges, hash="-".join(names))


PART = _part("covisits", "pair_decayed_60d", "session_events", "item_events_total")
WITHOUT_RULES = _part("covisits", "item_purchases_7d", "pair_touches")


def _of(features: FeatureSet, examples: Sequence[Example]) -> list[Example]:
    """The same examples as another set has them."""
    columns = [WHOLE.index(name) for name in features.names]
    return [
        msgspec.structs.replace(
            example,
            feature_hash=features.hash,
            features=np.frombuffer(example.features, np.float32).reshape(-1, WHOLE.width)[:, columns].tobytes(),
        )
        for example in examples
    ]


@pytest.fixture(scope="module")
def of_part(make_examples: MakeExamples) -> TrainedRanker:
    return train_ranker(_of(PART, make_examples(200)), PART, seed=3)


def test_a_ranker_is_served_on_its_own_features_alone(trained: TrainedRanker, of_part: TrainedRanker) -> None:
    for ranker, own, other in ((trained, WHOLE, PART), (of_part, PART, WHOLE)):
        assert trained_features(ranker.onnx) == (own.hash, own.names)
        assert Ranker(ranker.onnx, own).score(np.zeros((2, own.width), dtype=np.float32)).shape == (2,)
        with pytest.raises(ModelError, match=f"trained on features {own.hash}, these are {other.hash}"):
            Ranker(ranker.onnx, other)


def test_examples_of_other_features_are_not_trained_on(make_examples: MakeExamples) -> None:
    examples = make_examples(20)
    mixed = [*_of(PART, examples[:8]), *examples[8:]]
    for features, kept in ((PART, 8), (WHOLE, 12)):
        groups, dropped = join_examples(mixed, features)
        assert groups.features.shape == (12 * kept, features.width)
        assert (len(groups), dropped.other_features, dropped.malformed) == (kept, 20 - kept, 0)


def test_the_learner_drops_what_it_learned_from_other_features(make_examples: MakeExamples) -> None:
    examples = make_examples(20)
    before, after = list(enumerate(examples[:8])), list(enumerate(_of(PART, examples)))[8:]
    moved, fresh = LearnerState(), LearnerState()
    fold_examples(moved, before, WHOLE)
    assert (moved.online.examples, moved.feature_hash) == (8 * 12, WHOLE.hash)
    assert OnlineScorer([moved], WHOLE).examples == 8 * 12
    assert OnlineScorer([moved], PART).examples == 0

    fold_examples(moved, after, PART)
    fold_examples(fresh, after, PART)
    assert encode(moved) == encode(fresh)
    assert (moved.online.examples, moved.refused, moved.feature_hash) == (12 * 12, 0, PART.hash)
    scorer = OnlineScorer([moved], PART)
    assert scorer.examples == 12 * 12
    assert scorer.contributions(np.ones((3, PART.width), dtype=np.float32)).shape == (3, PART.width)


def test_the_learner_refuses_examples_of_other_features(make_examples: MakeExamples) -> None:
    state = LearnerState()
    fold_examples(state, list(enumerate(make_examples(4))), PART)
    assert (state.refused, state.online.examples, state.applied, state.feature_hash) == (4, 0, 3, PART.hash)


def test_popularity_goes_by_all_events_where_purchases_are_not_counted_or_never_made(
    of_part: TrainedRanker, make_examples: MakeExamples
) -> None:
    examples = make_examples(200)
    for example in examples:
        rows = np.frombuffer(example.features, np.float32).reshape(-1, WHOLE.width).copy()
        rows[:, WHOLE.index("item_purchases_total")] = 0.0
        example.features = rows.tobytes()
    report = train_ranker(examples, WHOLE, seed=3).report
    assert report.popularity is not None
    assert report.popularity == of_part.report.popularity
    assert report.personal_frequency == of_part.report.personal_frequency


def test_a_rule_without_its_feature_is_not_measured(make_examples: MakeExamples) -> None:
    made = train_ranker(_of(WITHOUT_RULES, make_examples(100)), WITHOUT_RULES)
    assert (made.report.popularity, made.report.personal_frequency) == (None, None)
    assert msgspec.json.decode(made.metadata["metrics"], type=TrainingReport) == made.report
