"""From events to weights: an example is learned once, whatever its writers went through."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.agents import CRASHES, CUTS, SETTINGS, SPECS, events_log
from support.logs import log_of_records, slices
from support.runs import Crash, Run, run

from models.online import fold_examples
from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.messages import Example, decode_example
from persona_stream.vocabulary.messages import encode as encode_message
from tables.features.plan import feature_set
from tables.learner import LearnerState, encode

FEATURES = feature_set(SETTINGS)
ITEM_EVENTS, EXAMPLES = "t.internal.item-events", "t.examples.v1"


def _fold(table: str, parts: Any, crashes: dict[int, Crash] | None = None) -> Run:
    return run(SPECS[table].fold, SPECS[table].codec, parts, crashes)


def _example(offset: int, *, partition: int = 0, label: int = 1, user: str = "u1") -> Example:
    random = np.random.default_rng(abs(offset))
    return Example(
        group=f"g{offset}",
        user=user,
        ts_ms=offset,
        feature_hash=FEATURES.hash,
        items=["i1"],
        features=random.random(FEATURES.width, dtype=np.float32).tobytes(),
        labels=[label],
        origin="online",
        source_partition=partition,
        source_offset=offset,
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), CUTS, CRASHES, CRASHES, CRASHES)
def test_crashes_along_the_whole_way_leave_the_same_weights(
    seed: int, cuts: list[int], first: dict[int, Crash], second: dict[int, Crash], third: dict[int, Crash]
) -> None:
    log = events_log(seed)
    clean_items = _fold("items", slices(log_of_records(_fold("users", slices(log)).emitted[ITEM_EVENTS])))
    clean = _fold("learner", slices(log_of_records(clean_items.emitted.get(EXAMPLES, []))))

    users = _fold("users", slices(log, cuts), first)
    items = _fold("items", slices(log_of_records(users.emitted[ITEM_EVENTS]), cuts), second)
    learner = _fold("learner", slices(log_of_records(items.emitted.get(EXAMPLES, [])), cuts), third)

    for key in clean_items.state:
        assert items.state.get(key) == clean_items.state.get(key)
    held, expected = learner.state.get("0"), clean.state.get("0")
    if expected is not None:
        assert held is not None
        assert held.online == expected.online
        assert held.refused == expected.refused


def test_an_example_written_twice_is_learned_once() -> None:
    written = [_example(offset) for offset in (3, 5, 9)]
    once, twice = LearnerState(), LearnerState()
    fold_examples(once, list(enumerate(written)), FEATURES)
    # The items agent crashed after its examples: it wrote the last two again, then went on.
    fold_examples(twice, list(enumerate([*written, *written[1:]])), FEATURES)
    assert twice.online == once.online
    assert twice.sources == once.sources == {0: 9}
    assert (once.applied, twice.applied) == (2, 4)
    fold_examples(twice, [(5, _example(12))], FEATURES)
    assert twice.online.examples == 4


def test_each_partition_of_item_events_has_a_place_of_its_own() -> None:
    state = LearnerState()
    fold_examples(
        state, [(0, _example(7, partition=1)), (1, _example(2, partition=0)), (2, _example(3, partition=1))], FEATURES
    )
    assert state.online.examples == 2
    assert state.sources == {0: 2, 1: 7}


def test_an_example_without_an_origin_goes_by_its_own_offset() -> None:
    state = LearnerState()
    fold_examples(state, [(0, _example(-1, partition=-1)), (1, _example(-1, partition=-1))], FEATURES)
    assert (state.online.examples, state.sources) == (2, {})
    before = encode(state)
    fold_examples(state, [(1, _example(-1, partition=-1))], FEATURES)
    assert encode(state) == before


def test_backfilled_rows_train_rankers_not_the_learner() -> None:
    backfilled = _example(1)
    backfilled.origin = "backfill"
    done = _fold("learner", slices(log_of_records([Record(b"u1", encode_message(backfilled))])))
    state = done.state.get("0")
    assert state is not None
    assert state.online.examples == 0
    assert done.state.progress.offset == 0


def test_examples_hold_a_full_row_and_their_order_in_the_log() -> None:
    users = _fold("users", slices(events_log(3)))
    items = _fold("items", slices(log_of_records(users.emitted[ITEM_EVENTS]), [10, 40]))
    examples = [decode_example(record.value or b"") for record in items.emitted[EXAMPLES]]
    assert examples
    for example, record in zip(examples, items.emitted[EXAMPLES], strict=True):
        assert record.key == example.user.encode()
        row = np.frombuffer(example.features, dtype=np.float32)
        assert row.shape == (FEATURES.width,)
        missing = {name for name, value in zip(FEATURES.names, row.tolist(), strict=True) if not np.isfinite(value)}
        # No catalogue is known here.
        assert missing <= {"category_new", "price", "price_quantile", "price_rank", "price_for_me"}
    offsets = [example.source_offset for example in examples]
    assert offsets == sorted(set(offsets))
    assert sum(example.labels[0] > 0 for example in examples) == len({example.group for example in examples})
