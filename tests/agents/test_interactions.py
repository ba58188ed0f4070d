"""The interactions agent: what is put aside, sent on, handed to the items and made an example."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.agents import CRASHES, CUTS
from support.broken import Broken, broken_records
from support.logs import (
    APPENDED_MS,
    HOUR_MS,
    T0_MS,
    Log,
    LogRecord,
    event,
    log_of,
    log_of_records,
    shopping,
    slices,
    user_in,
)
from support.runs import Crash, Run, run

from agents.emissions import FORWARDED
from agents.interactions import NOT_COUNTED, RECENT_KEPT, ROWS_SHOWN, Interactions
from agents.items import Items
from persona_stream.kafka.writer import Partitioner
from persona_stream.stream.partition import SYSTEM_KEYS, Partition
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.events import GRADES, KIND_INDEX
from persona_stream.vocabulary.messages import (
    NO_EXAMPLE,
    SHOWN,
    ItemEvent,
    Opened,
    Outcome,
    Shown,
    decode_item_event,
    decode_shown,
)
from tables import items as items_table
from tables.covisits import packed
from tables.features.plan import plan_of
from tables.users import codec

ONE = Settings(namespace="t", partitions=1)
FOUR = Settings(namespace="t", partitions=4)
EVENTS, ITEM_EVENTS, DEAD, LATE = "t.events.v1", "t.internal.item-events", "t.deadletter.v1", "t.late.v1"
PLAN = plan_of(Settings())
POSITION = PLAN.person_names.index("position")


def _run(log: Log, config: Settings = ONE, *, partition: int = 0, cuts: tuple[int, ...] = ()) -> Run:
    return run(Interactions(config), codec, slices(log, cuts, topic=EVENTS, partition=partition))


def _item_events(done: Run) -> list[ItemEvent]:
    return [decode_item_event(record.value or b"") for record in done.emitted.get(ITEM_EVENTS, [])]


def _items_of(made: list[ItemEvent]) -> tuple[dict[bytes, bytes | None], int]:
    items = Partition(items_table.codec)
    Items.fold(made, items)
    return {r.key: r.value for r in items.take_changes() if r.key not in SYSTEM_KEYS}, items.progress.watermark_ms


def _events_of(done: Run, user: str) -> int:
    state = done.state.get(user)
    return sum(session[2] for session in state.sessions) if state else 0


@pytest.mark.parametrize("broken", broken_records(APPENDED_MS), ids=lambda broken: broken.kind)
def test_a_broken_record_is_put_aside_and_its_neighbours_are_applied(broken: Broken) -> None:
    good = [event("a", "view", "u1", T0_MS, item="i1"), event("b", "view", "u1", T0_MS + 1, item="i1")]
    (first,), (last,) = log_of(good[:1]), log_of(good[1:], first_offset=6)
    bad = LogRecord(5, broken.value, broken.key, headers=(("trace", b"t1"),))
    done = _run([first, bad, last])
    assert done.outcomes == {"applied": 2}
    assert done.reasons == {broken.reason: 1}
    (aside,) = done.emitted[DEAD]
    assert aside.value == (broken.value or b"")
    assert aside.key == b"t.events.v1/0/5"
    headers = dict(aside.headers)
    assert headers.pop("__streams.errors.message")
    assert headers == {
        "trace": b"t1",
        "persona.reason": broken.reason.encode(),
        "persona.key": broken.key or b"",
        "__streams.errors.exception": b"EventError",
        "__streams.errors.topic": b"t.events.v1",
        "__streams.errors.partition": b"0",
        "__streams.errors.offset": b"5",
    }


def test_an_event_beyond_the_allowed_lateness_goes_to_the_late_topic() -> None:
    just_in_time, too_late = T0_MS - HOUR_MS, T0_MS - HOUR_MS - 1
    times_ms = [T0_MS, too_late, just_in_time]
    log = log_of([event(f"e{n}", "view", "u1", ts_ms, item="i1") for n, ts_ms in enumerate(times_ms)])
    done = _run(log)
    assert done.outcomes == {"applied": 2, "late": 1}
    (aside,) = done.emitted[LATE]
    assert (aside.key, aside.value) == (b"t.events.v1/0/1", log[1].value)
    assert dict(aside.headers)["persona.reason"] == b"late"
    assert done.state.progress.watermark_ms == T0_MS


def test_a_clock_far_ahead_does_not_move_the_watermark() -> None:
    ahead_ms = APPENDED_MS + ONE.max_future_skew_ms + 1
    log = log_of([event("a", "view", "u1", ahead_ms, item="i1"), event("b", "view", "u1", T0_MS, item="i1")])
    done = _run(log)
    assert done.reasons == {"future_ts": 1}
    assert done.outcomes == {"applied": 1}
    assert done.state.progress.watermark_ms == T0_MS


@pytest.mark.parametrize("home", range(4))
def test_a_user_in_the_wrong_partition_is_sent_on_to_the_right_one(home: int) -> None:
    user = user_in(home, 4)
    log = log_of([event("a", "view", user, T0_MS, item="i1")])
    for partition in range(4):
        done = _run(log, FOUR, partition=partition)
        if partition == home:
            assert done.outcomes == {"applied": 1}
            assert EVENTS not in done.emitted
        else:
            (sent,) = done.emitted[EVENTS]
            assert Partitioner(4)(sent.key) == home
            assert (sent.key, sent.value) == (log[0].key, log[0].value)
            assert sent.headers == [(FORWARDED, f"{partition}/0".encode())]
            assert (done.outcomes, len(done.state)) == ({"rerouted": 1}, 0)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 150), CUTS, CRASHES)
def test_what_was_sent_on_counts_once_however_often_the_sender_crashed(
    count: int, cuts: list[int], crashes: dict[int, Crash]
) -> None:
    # More events than ids are remembered, all of one user.
    user = user_in(2, 4)
    log = log_of([event(f"e{n}", "view", user, T0_MS + n, item="i1") for n in range(count)])
    sender = run(Interactions(FOUR), codec, slices(log, cuts, topic=EVENTS, partition=1), crashes)
    arrived = log_of_records(sender.emitted[EVENTS])
    home = _run(arrived, FOUR, partition=2, cuts=tuple(cuts))
    assert _events_of(home, user) == count
    assert len(_item_events(home)) == count


def test_what_was_sent_on_and_could_not_be_used_leaves_no_trace_of_it() -> None:
    user = user_in(2, 4)
    late = LogRecord(1, log_of([event("l", "view", user, T0_MS - 2 * HOUR_MS, item="i1")])[0].value, user.encode())
    sent = LogRecord(1, late.value, late.key, headers=[(FORWARDED, b"1/7"), ("trace", b"x")])
    done = _run([*log_of([event("a", "view", user, T0_MS, item="i1")]), sent], FOUR, partition=2)
    headers = dict(done.emitted[LATE][0].headers)
    assert FORWARDED not in headers
    assert headers["trace"] == b"x"


def test_each_item_of_an_event_gets_it_once_with_its_origin() -> None:
    log = log_of(
        [
            event("a", "impression", "u1", T0_MS, items=["i1", "i2", "i1"]),
            event("b", "purchase", "u1", T0_MS + 1, item="i2", value=12.345),
            event("c", "search", "u1", T0_MS + 2),
            event("d", "view", "u1", T0_MS + 3, item="i3", context={"segment": "s1"}),
        ],
        first_offset=40,
    )
    made = [found for found in _item_events(_run(log)) if found.kind != NOT_COUNTED]
    assert [(found.item, found.kind, found.source_offset) for found in made] == [
        ("i1", KIND_INDEX["impression"], 40),
        ("i2", KIND_INDEX["impression"], 40),
        ("i2", KIND_INDEX["purchase"], 41),
        ("i3", KIND_INDEX["view"], 43),
    ]
    assert [found.value_milli for found in made] == [0, 0, 12345, 0]
    assert made[-1].segment == "s1"
    assert [found.neighbours for found in made] == [b"", b"", b"", packed(["i2"])]
    keys = [record.key.decode() for record in _run(log).emitted[ITEM_EVENTS]]
    assert keys == [found.item for found in _item_events(_run(log))]


def _told(done: Run) -> list[Shown]:
    return [decode_shown(record.value or b"") for record in done.emitted.get("t.internal.shown", [])]


def test_a_list_shown_is_told_with_a_row_for_each_item_as_of_before_it() -> None:
    shown = [f"i{n}" for n in range(6)]
    done = _run(log_of([event("s", "impression", "u1", T0_MS, items=[*shown, "i2"], slot="home")]))
    assert _told(done) == [Opened("u1", "s", T0_MS, 0, "home", shown)]
    rows = _item_events(done)
    assert [(row.item, row.label, row.group, row.user) for row in rows] == [(item, SHOWN, "s", "u1") for item in shown]
    for place, row in enumerate(rows):
        features = np.frombuffer(row.user_features, dtype=np.float32)
        assert features.shape == (len(PLAN.person_names),)
        assert features[POSITION] == np.float32(np.log1p(place))
        assert features[PLAN.person_names.index("user_events_total")] == 0


def test_a_long_list_has_rows_for_its_first_items_only() -> None:
    done = _run(log_of([event("s", "impression", "u1", T0_MS, items=[f"i{n}" for n in range(ROWS_SHOWN + 9)])]))
    assert [row.label for row in _item_events(done)] == [SHOWN] * ROWS_SHOWN + [NO_EXAMPLE] * 9
    (opened,) = _told(done)
    assert isinstance(opened, Opened)
    assert len(opened.items) == ROWS_SHOWN


def test_a_list_of_a_decision_needs_no_rows_from_the_stream() -> None:
    done = _run(log_of([event("s", "impression", "u1", T0_MS, items=["i1", "i2"], decision_id="d1")]))
    assert _told(done) == [Opened("u1", "d1", T0_MS, 0, "", ["i1", "i2"])]
    assert {(row.label, row.user_features) for row in _item_events(done)} == {(NO_EXAMPLE, b"")}


def test_an_outcome_is_told_of_the_list_that_it_answers() -> None:
    log = log_of(
        [
            event("s", "impression", "u1", T0_MS, items=["i1", "i2"]),
            event("d", "impression", "u1", T0_MS + 1, items=["i2", "i3"], decision_id="d1"),
            event("v", "view", "u1", T0_MS + 2, item="i1"),
            event("a", "click", "u1", T0_MS + 3, item="i1"),
            event("b", "purchase", "u1", T0_MS + 4, item="i2"),
            event("c", "rating", "u1", T0_MS + 5, item="i3", value=5.0),
            event("e", "click", "u1", T0_MS + 6, item="i9", decision_id="unheard-of"),
        ]
    )
    done = _run(log)
    assert [told for told in _told(done) if isinstance(told, Outcome)] == [
        Outcome("u1", "s", T0_MS + 3, 3, "i1", 1),
        Outcome("u1", "d1", T0_MS + 4, 4, "i2", 3),
        Outcome("u1", "d1", T0_MS + 5, 5, "i3", 2),
        Outcome("u1", "unheard-of", T0_MS + 6, 6, "i9", 1),
    ]
    # None of them is an example by itself.
    assert all(row.label in {SHOWN, NO_EXAMPLE} for row in _item_events(done))


def test_an_examples_features_know_nothing_of_its_own_event() -> None:
    def first_row(kind: str) -> ItemEvent:
        return next(row for row in _item_events(_run(log_of([event("c", kind, "u1", T0_MS, item="i1")]))) if row.label)

    click, purchase = first_row("click"), first_row("purchase")
    assert click.user_features == purchase.user_features
    features = dict(zip(PLAN.person_names, np.frombuffer(click.user_features, np.float32), strict=True))
    assert features["user_events_total"] == 0


def test_clicks_from_nowhere_are_examples_beside_items_by_how_often_they_are_chosen() -> None:
    views = [event(f"o{n}", "view", "u2", T0_MS + n, item="often" if n % 4 else "seldom") for n in range(40)]
    clicks = [event(f"c{n}", "click", f"v{n}", T0_MS + 60 + n, item="i1") for n in range(20)]
    rows = [row for row in _item_events(_run(log_of(views + clicks))) if row.label == 0]
    assert all(row.kind == NOT_COUNTED and row.user_features for row in rows)
    drawn = Counter(row.item for row in rows)
    assert set(drawn) == {"often", "seldom"}
    assert drawn["often"] > drawn["seldom"] > 0


def test_no_item_of_the_user_is_a_negative_on_purpose() -> None:
    mine = [event(f"m{n}", "view", "u1", T0_MS + n, item=f"mine{n}") for n in range(3)]
    others = [event(f"o{n}", "view", "u2", T0_MS + 10 + n, item=f"other{n % 9}") for n in range(RECENT_KEPT)]
    clicks = [event(f"c{n}", "click", "u1", T0_MS + 99 + n, item=f"mine{n % 3}") for n in range(3)]
    rows = [row for row in _item_events(_run(log_of(mine + others + clicks))) if row.label == 0]
    assert len(rows) == 3
    assert all(row.item.startswith("other") for row in rows)


def test_what_a_user_was_with_in_the_session_was_not_left_alone() -> None:
    clicks = [event(f"c{n}", "click", "u1", T0_MS + n, item=f"i{n}") for n in range(9)]
    later_ms = T0_MS + ONE.session_gap_ms + 99
    clicks.append(event("c9", "click", "u1", later_ms, item="i9"))
    negatives = [row for row in _item_events(_run(log_of(clicks))) if row.label == 0]
    assert [row.ts_ms for row in negatives] == [later_ms]


def test_views_make_no_examples_and_a_state_alone_makes_none() -> None:
    log = log_of(shopping(80))
    with_examples = _item_events(_run(log))
    chosen = {(found.kind, found.label) for found in with_examples if found.label > 0}
    liked = (KIND_INDEX["other"], 2)
    assert chosen <= {liked, *((KIND_INDEX[kind], grade) for kind, grade in GRADES.items())}
    alone = run(Interactions(ONE, with_examples=False), codec, slices(log, topic=EVENTS))
    assert not any(found.label > 0 or found.user_features for found in _item_events(alone))
    # What was a negative knows where it came from all the same, and is told once a slice.
    assert len(_item_events(alone)) < len(with_examples)
    assert _items_of(_item_events(alone)) == _items_of(with_examples)
    assert alone.table() == _run(log).table()


def test_every_record_is_accounted_for() -> None:
    events = shopping(200)
    log: list[Any] = log_of(events)
    log += [LogRecord(0, broken.value, broken.key) for broken in broken_records(APPENDED_MS)]
    log = [LogRecord(n, record.value, record.key) for n, record in enumerate(log)]
    done = _run(log)
    assert sum(done.outcomes.values()) + sum(done.reasons.values()) == len(log)
    assert done.outcomes["applied"] == len({made["id"] for made in events})
    assert done.outcomes["duplicate"] == len(events) - len({made["id"] for made in events})
    per_user = Counter(made["user"] for made in {made["id"]: made for made in events}.values())
    assert {user: _events_of(done, user) for user in done.state} == dict(per_user)
