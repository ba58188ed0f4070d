"""The benchmark's log is reproducible, and its oracle says what the plain folds say."""

from collections import Counter, defaultdict

import msgspec
import pytest

from benchmarks import workloads as w
from benchmarks.contract import KeyedResult, Report, WindowResult, window_totals, windows_of_panes
from benchmarks.data import EPOCH_MS, MAX_DISORDER_MS, LogRecord, LogSpec, generate, partition_of
from benchmarks.oracle import differences, truth

SPEC = LogSpec(events=3_000, users=300, items=50)


@pytest.fixture(scope="module")
def records() -> list[LogRecord]:
    return list(generate(SPEC))


@pytest.fixture(scope="module")
def events(records: list[LogRecord]) -> list[w.Event]:
    return [w.decode(record.value) for record in records]


def test_the_same_spec_gives_the_same_bytes(records: list[LogRecord]) -> None:
    assert list(generate(SPEC)) == records
    assert list(generate(msgspec.structs.replace(SPEC, seed=8))) != records


def test_records_have_the_contract_shape_and_size(records: list[LogRecord], events: list[w.Event]) -> None:
    assert len({event.id for event in events}) == len(events)
    for record, event in zip(records, events, strict=True):
        assert 250 <= len(record.value) <= 350
        assert record.key == event.user.encode()
        assert record.ts_ms == event.ts >= EPOCH_MS
        assert record.partition == partition_of(record.key, SPEC.partitions)


def test_event_time_advances_with_bounded_disorder(events: list[w.Event]) -> None:
    newest = 0
    disordered = 0
    for event in events:
        disordered += event.ts < newest
        assert newest - event.ts < MAX_DISORDER_MS
        newest = max(newest, event.ts)
    assert disordered > len(events) / 2
    assert newest - events[0].ts > SPEC.events / SPEC.events_per_s * 900


def test_users_are_skewed_and_partitions_are_not(records: list[LogRecord]) -> None:
    by_user = Counter(record.key for record in records)
    assert by_user.most_common(1)[0][1] > 5 * len(records) / len(by_user)
    by_partition = Counter(record.partition for record in records)
    assert max(by_partition.values()) < 1.3 * min(by_partition.values())


def test_oracle_of_w1_counts_every_event(events: list[w.Event]) -> None:
    result = truth("w1", events)
    assert isinstance(result, KeyedResult)
    assert result.count == len(events)
    assert result.keys == len({event.user for event in events})
    assert result.total == pytest.approx(sum(event.value for event in events))
    assert result.sample
    for user, (count, total, last_ts) in result.sample.items():
        own = [event for event in events if event.user == user]
        assert (count, last_ts) == (len(own), max(event.ts for event in own))
        assert total == pytest.approx(sum(event.value for event in own))


def test_oracle_of_w2_agrees_with_window_starts(events: list[w.Event]) -> None:
    cells = Counter((event.item, start_ms) for event in events for start_ms in w.window_starts(event.ts))
    result = truth("w2", events)
    assert isinstance(result, WindowResult)
    assert result.items == window_totals((item, start_ms, n) for (item, start_ms), n in cells.items())
    assert result.users.total == len(events) * w.WINDOWS_PER_EVENT


def test_windows_are_half_open() -> None:
    edge = EPOCH_MS + 10 * w.STEP_MS
    assert list(w.window_starts(edge)) == [edge - k * w.STEP_MS for k in (4, 3, 2, 1, 0)]
    assert edge not in w.window_starts(edge - 1)
    assert list(windows_of_panes([("i1", edge, 2)])) == [("i1", edge - k * w.STEP_MS, 2) for k in range(5)]


def test_features_are_fifteen_and_read_only_the_past(events: list[w.Event]) -> None:
    state = w.new_user()
    for event in events[:200]:
        before = msgspec.json.encode(state)
        row = w.features(state, event)
        assert len(row) == w.FEATURE_COUNT
        assert msgspec.json.encode(state) == before
        for kind in ("click", "purchase", "view"):
            assert w.features(state, msgspec.structs.replace(event, type=kind, value=99.0)) == row
        w.apply(state, event)
    assert state["events"] == 200


def test_oracle_of_w3_is_the_fold_of_apply(events: list[w.Event]) -> None:
    states: dict[str, w.UserState] = {}
    sums: defaultdict[str, float] = defaultdict(float)
    for event in events:
        state = states.setdefault(event.user, w.new_user())
        sums[event.user] += sum(w.features(state, event).values())
        w.apply(state, event)
    result = truth("w3a", events)
    assert isinstance(result, KeyedResult)
    for user, (count, total, last_ts) in result.sample.items():
        assert (count, total, last_ts) == (states[user]["events"], sums[user], states[user]["last_ts"])


def test_a_wrong_result_is_told(events: list[w.Event]) -> None:
    expected = truth("w2", events)
    short = truth("w2", events[:-1])
    assert differences("w2", len(events), Report(1.0, expected), expected) == []
    found = differences("w2", len(events), Report(1.0, short), expected)
    assert any(text.startswith("items: windows count") for text in found)
    assert differences("w1", len(events), Report(1.0, expected), truth("w1", events))


def test_a_learner_that_skipped_events_is_told(events: list[w.Event]) -> None:
    learner = w.Learner()
    states: dict[str, w.UserState] = {}
    for event in events:
        w.featurize(states.setdefault(event.user, w.new_user()), event, learner)
    expected = truth("w3b", events)
    good = Report(1.0, expected, learned=learner.learned, log_loss=learner.log_loss)
    assert differences("w3b", len(events), good, expected) == []
    good.learned -= 1
    assert differences("w3b", len(events), good, expected) == ["the model learned 2999 of 3000 events"]
