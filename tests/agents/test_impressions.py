"""Lists shown and what became of them: each row an example once, whatever its way, with the features of its moment."""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.agents import CRASHES, CUTS, SETTINGS, SPECS, events_log, interleaved, shown_log
from support.logs import T0_MS, Log, log_of_records, slices
from support.runs import Crash, Run, run

from agents.learner import NEGATIVES_LEARNED
from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.messages import (
    Example,
    Opened,
    Outcome,
    Shown,
    ShownRows,
    decode_example,
    encode,
)
from tables.features.plan import feature_set

FEATURES = feature_set(SETTINGS)
WINDOW_MS, LATENESS_MS = SETTINGS.attribution_window_ms, SETTINGS.allowed_lateness_ms
EXAMPLES = "t.examples.v1"


def _fold(log: Log, cuts: Sequence[int] = (), crashes: dict[int, Crash] | None = None) -> Run:
    spec = SPECS["impressions"]
    return run(spec.fold, spec.codec, slices(log, cuts), crashes)


def _log(*told: Shown) -> Log:
    return log_of_records([Record(one.user.encode(), encode(one)) for one in told])


def _examples(done: Run) -> list[Example]:
    return [decode_example(record.value or b"") for record in done.emitted.get(EXAMPLES, [])]


def _row(item: str) -> bytes:
    return np.full(FEATURES.width, sum(item.encode()), dtype=np.float32).tobytes()


def _rows(items: Sequence[str], offset: int, *, group: str = "g", partition: int = 0, **more: object) -> ShownRows:
    features = b"".join(map(_row, items))
    return ShownRows("u", group, T0_MS, partition, offset, FEATURES.hash, list(items), features, **more)  # type: ignore[arg-type]


def _opened(offset: int, items: Sequence[str], *, group: str = "g", after_ms: int = 0) -> Opened:
    return Opened("u", group, T0_MS + after_ms, offset, "home", list(items))


def _outcome(offset: int, item: str, after_ms: int, grade: int = 1, *, group: str = "g") -> Outcome:
    return Outcome("u", group, T0_MS + after_ms, offset, item, grade)


LATER = _opened(99, [], group="later", after_ms=WINDOW_MS + 1)
"""Moves time beyond the window."""


def test_what_is_chosen_is_an_example_at_once_and_the_list_when_its_window_closes() -> None:
    log = _log(_opened(1, "abc"), _rows("ab", 5), _rows("c", 7, partition=1), _outcome(2, "b", 10), LATER)
    at_once, whole = _examples(_fold(log))
    assert (at_once.items, at_once.labels, at_once.origin, at_once.positions) == (["b"], [1], "online", [1])
    assert (whole.items, whole.labels, whole.origin) == (["a", "b", "c"], [0, 1, 0], "impression")
    assert (whole.group, whole.user, whole.slot, whole.ts_ms) == ("g", "u", "home", T0_MS)
    assert whole.features == _row("a") + _row("b") + _row("c")
    assert (at_once.features, at_once.feature_hash) == (_row("b"), FEATURES.hash)


def test_a_list_nobody_chose_from_is_an_example_too() -> None:
    (whole,) = _examples(_fold(_log(_opened(1, "ab"), _rows("ab", 5), LATER)))
    assert whole.labels == [0, 0]


def test_a_list_waits_for_its_rows_however_late_they_come() -> None:
    log = _log(_opened(1, "ab"), _outcome(2, "a", 10, grade=3), _rows("b", 5), LATER, _rows("a", 6))
    at_once, whole = _examples(_fold(log))
    assert (at_once.items, at_once.labels) == (["a"], [3])
    assert whole.labels == [3, 0]


def test_the_highest_grade_counts_and_an_item_is_told_to_the_learner_once() -> None:
    outcomes = [_outcome(2, "a", 10, grade=1), _outcome(3, "a", 20, grade=3), _outcome(4, "a", 30, grade=2)]
    examples = _examples(_fold(_log(_opened(1, "ab"), _rows("ab", 5), *outcomes, LATER)))
    assert [example.labels for example in examples] == [[1], [3, 0]]


def test_what_comes_after_the_window_is_no_outcome_of_the_list() -> None:
    log = _log(_opened(1, "ab"), _rows("ab", 5), LATER, _outcome(100, "a", 2 * WINDOW_MS))
    assert [example.labels for example in _examples(_fold(log))] == [[0, 0]]


def test_a_decision_brings_its_rows_and_propensities() -> None:
    rows = _rows("ab", -1, partition=-1, is_whole=True, propensities=[0.75, 0.25])
    # Shown below what was answered, and chosen from what was not logged.
    log = _log(rows, _opened(1, "abz"), _outcome(2, "b", 10), _outcome(3, "z", 11), LATER)
    at_once, whole = _examples(_fold(log))
    assert (at_once.items, at_once.propensities) == (["b"], [0.25])
    assert (whole.items, whole.labels, whole.propensities) == (["a", "b"], [0, 1], [0.75, 0.25])


def test_an_answer_is_shown_if_it_is_chosen_from_and_none_if_nobody_tells_of_it() -> None:
    rows = _rows("ab", -1, partition=-1, is_whole=True)
    long_after = _opened(99, [], group="later", after_ms=WINDOW_MS + LATENESS_MS + 20)
    assert [one.labels for one in _examples(_fold(_log(rows, _outcome(2, "b", 10), long_after)))] == [[1], [0, 1]]
    done = _fold(_log(rows, long_after))
    assert _examples(done) == []
    assert [key for key in done.state if done.state.change(key).closed_at < 0] == ["u\nlater"]


def test_rows_of_another_catalogue_stand_in_no_list_with_these() -> None:
    other = _rows("a", 5)
    other.feature_hash = "other"
    (whole,) = _examples(_fold(_log(_opened(1, "ab"), other, _rows("b", 6), LATER)))
    assert (whole.items, whole.feature_hash) == (["b"], FEATURES.hash)


def test_lists_of_two_users_with_one_name_are_two_lists() -> None:
    second = Opened("v", "g", T0_MS, 2, "home", ["x"])
    rows = ShownRows("v", "g", T0_MS, 0, 6, FEATURES.hash, ["x"], _row("x"))
    examples = _examples(_fold(_log(_opened(1, "a"), second, _rows("a", 5), rows, LATER)))
    assert {(example.user, *example.items) for example in examples} == {("u", "a"), ("v", "x")}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), CUTS, CRASHES)
def test_cuts_and_crashes_change_no_example_and_repeat_none_to_the_learner(
    seed: int, cuts: list[int], crashes: dict[int, Crash]
) -> None:
    log = shown_log(seed)
    clean, other = _fold(log), _fold(log, cuts, crashes)
    assert clean.emitted_once() == other.emitted_once()
    assert {key: other.state.get(key) for key in other.state} == {key: clean.state.get(key) for key in clean.state}
    sources = [(example.source_partition, example.source_offset) for example in _examples(clean)]
    assert sources == sorted(set(sources))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_what_the_writers_told_twice_changes_no_example(seed: int, repeats: int) -> None:
    # A crash upstream: a run of what one of them had told comes again, in its order, from its place in the log on.
    log = [Record(record.key or b"", record.value) for record in shown_log(seed)]
    clean = _examples(_fold(log_of_records(log)))
    random_ = random.Random(repeats)
    at = random_.randrange(len(log)) if log else 0
    again = [record for record in log[max(0, at - 9) : at] if random_.random() < 0.8]
    twice = _examples(_fold(log_of_records([*log[:at], *again, *log[at:]])))
    assert _rows_of(twice) == _rows_of(clean)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_rows_may_come_in_any_interleaving(seed: int, other: int) -> None:
    spec = SPECS["users"]
    users = run(spec.fold, spec.codec, slices(events_log(seed)))
    told = users.emitted.get("t.internal.shown", [])
    items = run(
        SPECS["items"].fold, SPECS["items"].codec, slices(log_of_records(users.emitted["t.internal.item-events"]))
    )
    rows = items.emitted.get("t.internal.shown", [])
    one, two = (_examples(_fold(log_of_records(interleaved(n, told, rows)))) for n in (seed, other))
    # What is still open at the end may have been told to the learner or not.
    whole = [[example for example in made if example.origin == "impression"] for made in (one, two)]
    common = {example.group for example in whole[0]} & {example.group for example in whole[1]}
    assert _rows_of(whole[0], common) == _rows_of(whole[1], common)


def _rows_of(examples: Sequence[Example], groups: set[str] | None = None) -> Counter[tuple[object, ...]]:
    """What examples say, wherever they came from."""
    return Counter(
        (example.origin, example.group, example.user, *example.items, *example.labels, example.features)
        for example in examples
        if groups is None or example.group in groups
    )


def test_the_learner_learns_what_was_chosen_at_once_and_some_of_what_was_left() -> None:
    items = [f"i{n}" for n in range(20)]
    log = _log(_opened(1, items), _rows(items, 5), _outcome(2, "i3", 10), LATER)
    written = [Record(b"u", encode(example)) for example in _examples(_fold(log))]
    spec = SPECS["learner"]
    state = run(spec.fold, spec.codec, slices(log_of_records(written))).state.get("0")
    assert state is not None
    assert (state.online.positives, state.online.examples) == (1, 1 + NEGATIVES_LEARNED)
