"""Training: lists are joined, time is respected, what is learned beats the simple rules, too little data says
so."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from models.evaluation import ndcg_at_k
from models.groups import join_examples
from models.ranker import Ranker
from models.train import TrainedRanker, TrainingReport, fit_ranker, train_ranker
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ModelError
from persona_stream.vocabulary.messages import Example
from tables.features.plan import feature_set

FEATURES = feature_set(Settings())

MakeExamples = Callable[..., list[Example]]


def _row_by_row(examples: list[Example]) -> list[Example]:
    """The same rows, one record each."""
    single: list[Example] = []
    for example in examples:
        width = len(example.features) // len(example.items)
        for i, (item, label) in enumerate(zip(example.items, example.labels, strict=True)):
            block = example.features[width * i : width * (i + 1)]
            single.append(msgspec.structs.replace(example, items=[item], labels=[label], features=block))
    return single


def test_it_beats_popularity_and_personal_frequency_on_later_time(trained: TrainedRanker) -> None:
    report = trained.report
    assert report.popularity is not None
    assert report.personal_frequency is not None
    assert report.ranker.ndcg.low > max(report.popularity.ndcg.high, report.personal_frequency.ndcg.high)
    assert report.ranker.ndcg.low < report.ranker.ndcg.mean < report.ranker.ndcg.high
    assert report.popularity.ndcg.mean != report.personal_frequency.ndcg.mean


def test_the_last_fifth_of_time_is_held_out(trained: TrainedRanker) -> None:
    report = trained.report
    hour_ms = 3_600_000
    assert (report.train_groups, report.held_out_groups) == (240, 60)
    assert (report.train_rows, report.held_out_rows) == (240 * 12, 60 * 12)
    assert (report.trained_from_ms, report.held_out_from_ms) == (0, 240 * hour_ms)
    assert trained.metadata["trained_to_ms"] == str(240 * hour_ms)
    assert msgspec.json.decode(trained.metadata["metrics"], type=TrainingReport) == report


def test_the_time_held_out_is_a_share_of_time_not_of_groups(make_examples: MakeExamples) -> None:
    examples = make_examples(200)
    for example in examples[150:]:
        example.ts_ms = examples[150].ts_ms
    report = train_ranker(examples, FEATURES).report
    assert report.held_out_from_ms == 120 * 3_600_000


def test_the_exported_model_ranks_as_the_report_says(trained: TrainedRanker, make_examples: MakeExamples) -> None:
    ranker = Ranker(trained.onnx, FEATURES)
    held_out, _ = join_examples(make_examples(300)[240:], FEATURES)
    scores = ranker.score(held_out.features).reshape(60, 12)
    found = np.take_along_axis(held_out.labels.reshape(60, 12), np.argsort(-scores, axis=1)[:, :10], axis=1)
    assert (found > 0).any(axis=1).mean() == pytest.approx(trained.report.ranker.hit_rate.mean, abs=1e-9)


def test_records_of_one_row_are_joined_by_group_in_any_order(
    trained: TrainedRanker, make_examples: MakeExamples
) -> None:
    rows = _row_by_row(make_examples(300))
    order = np.random.default_rng(1).permutation(len(rows))
    assert train_ranker([rows[i] for i in order], FEATURES, seed=3).onnx == trained.onnx


def test_a_row_that_comes_twice_counts_once_with_its_highest_label(make_examples: MakeExamples) -> None:
    examples = make_examples(3)
    early = [msgspec.structs.replace(example, labels=[0] * 12) for example in examples]
    groups, _ = join_examples(early + examples, FEATURES)
    alone, _ = join_examples(examples, FEATURES)
    np.testing.assert_array_equal(groups.labels, alone.labels)
    np.testing.assert_array_equal(groups.features, alone.features)


def test_a_list_weighs_as_what_was_graded_highest_in_it(make_examples: MakeExamples) -> None:
    first, second, third = (
        msgspec.structs.replace(one, labels=[1, 2] + [0] * 10, weights=[4.0, 0.5] + [1.0] * 10)
        for one in make_examples(3)
    )
    # The same item again, at a higher grade; and at the same one, weighing more.
    again = msgspec.structs.replace(second, labels=[3] + [0] * 11, weights=[9.0] + [1.0] * 11)
    heavier = msgspec.structs.replace(third, weights=[1.0, 2.0] + [1.0] * 10)
    groups, _ = join_examples([first, second, again, third, heavier], FEATURES)
    assert groups.weights.tolist() == [0.5, 9.0, 2.0]
    assert groups.slice(1, 3).weights.tolist() == [9.0, 2.0]
    crooked = msgspec.structs.replace(first, group="other", weights=[1.0])
    assert join_examples([crooked], FEATURES)[1].malformed == 1


def test_weights_of_one_are_none_and_heavy_lists_are_followed(make_examples: MakeExamples) -> None:
    # In every other list those were chosen that the user has least to do with.
    examples = [_contrary(one) if at % 2 else one for at, one in enumerate(make_examples(120))]
    ones = [msgspec.structs.replace(one, weights=[1.0] * 12) for one in examples]
    heavy = [
        msgspec.structs.replace(one, weights=[1.0 if at % 2 or not label else 20.0 for label in one.labels])
        for at, one in enumerate(examples)
    ]
    plain, same, weighted = (fit_ranker(each, FEATURES) for each in (examples, ones, heavy))
    assert same.onnx == plain.onnx
    groups, _ = join_examples(make_examples(60, seed=8), FEATURES)
    told = [
        ndcg_at_k(groups.labels, Ranker(made.onnx, FEATURES).score(groups.features), groups.sizes).mean()
        for made in (plain, weighted)
    ]
    assert told[1] > told[0] + 0.05, told


def _contrary(example: Example) -> Example:
    touched = np.frombuffer(example.features, dtype=np.float32).reshape(12, -1)[:, FEATURES.index("pair_decayed_60d")]
    labels = np.zeros(12, dtype=np.int64)
    labels[np.argsort(touched)[:2]] = 1
    return msgspec.structs.replace(example, labels=labels.tolist())


def test_what_says_nothing_about_order_is_dropped_and_counted(make_examples: MakeExamples) -> None:
    examples = make_examples(6)
    examples[0].labels = [0] * 12
    examples[1].labels = [1] * 12
    examples[2].feature_hash = "other"
    examples[3].items = examples[3].items[:-1]
    examples[4].labels = [-1] * 12
    groups, dropped = join_examples(examples, FEATURES)
    assert groups.ts_ms.tolist() == [examples[5].ts_ms]
    assert (dropped.one_sided, dropped.other_features, dropped.malformed) == (2, 1, 2)


def test_no_examples_join_to_no_groups() -> None:
    groups, dropped = join_examples([], FEATURES)
    assert (len(groups), dropped.one_sided) == (0, 0)


@pytest.mark.parametrize("groups", [0, 1, 55])
def test_too_few_groups_are_refused_with_the_numbers(make_examples: MakeExamples, groups: int) -> None:
    examples = make_examples(groups)
    for example in examples[:1]:
        example.labels = [0] * 12
    with pytest.raises(ModelError, match=r"too few groups .*: \d+ to train on \(at least 50\) and \d+ in the last 20%"):
        train_ranker(examples, FEATURES)


def test_rows_that_are_all_alike_still_make_a_model(make_examples: MakeExamples) -> None:
    examples = make_examples(100)
    for example in examples:
        example.features = bytes(len(example.features))
    ranker = Ranker(train_ranker(examples, FEATURES).onnx, FEATURES)
    assert len(set(ranker.score(np.zeros((3, FEATURES.width), dtype=np.float32)).tolist())) == 1


def test_progress_counts_trees(make_examples: MakeExamples) -> None:
    seen: list[tuple[int, int]] = []
    train_ranker(make_examples(80), FEATURES, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(tree, 200) for tree in range(1, 201)]
