"""The users fold: sessions, history, dedupe and impressions, in any order of arrival."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logs import MINUTE_MS, T0_MS, event, shopping

from persona_stream.vocabulary.events import KIND_INDEX, Event
from tables.features import LAST_INTEREST, LAST_PURCHASE, PURCHASES, TIMES, TOUCH_HEAD, TOUCHES_KEPT
from tables.users import (
    HISTORY_KEPT,
    ITEMS_KEPT,
    PENDING_KEPT,
    SEEN_KEPT,
    SEGMENT_CHARS,
    SESSIONS_KEPT,
    Rules,
    UserState,
    admit,
    apply_event,
    codec,
    open_session,
    recent_items,
)

RULES = Rules(session_gap_ms=30 * MINUTE_MS, attribution_window_ms=30 * MINUTE_MS, segment_field="segment")


def _event(**fields: Any) -> Event:
    return Event(**fields)


def _fold(events: list[dict[str, Any]], state: UserState | None = None) -> UserState:
    state = UserState() if state is None else state
    for offset, fields in enumerate(events, start=state.applied + 1):
        made = Event(**fields)
        if admit(state, made, fields["ts"], offset) == "new":
            apply_event(state, made, fields["ts"], RULES)
    return state


def _views(times_ms: list[int]) -> list[dict[str, Any]]:
    return [event(f"e{n}", "view", "u", ts_ms, item=f"i{n % 7}") for n, ts_ms in enumerate(times_ms)]


def _sessions_of(times_ms: list[int]) -> list[list[int]]:
    sessions: list[list[int]] = []
    for ts_ms in sorted(times_ms):
        if sessions and ts_ms <= sessions[-1][1] + RULES.session_gap_ms:
            sessions[-1][1] = ts_ms
            sessions[-1][2] += 1
        else:
            sessions.append([ts_ms, ts_ms, 1])
    return sessions


# Up to SESSIONS_KEPT sessions: gaps around the session gap, to the millisecond.
SESSION_TIMES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 15 * MINUTE_MS, 30 * MINUTE_MS, 30 * MINUTE_MS + 1])),
    min_size=1,
    max_size=30,
).map(lambda steps: [T0_MS + whole * 61 * MINUTE_MS + part for whole, part in steps])


@given(SESSION_TIMES, st.randoms(use_true_random=False))
def test_sessions_are_the_same_whatever_the_order(times_ms: list[int], random_: random.Random) -> None:
    expected = _sessions_of(times_ms)
    random_.shuffle(times_ms)
    state = _fold(_views(times_ms))
    assert [*state.sessions] == expected[-SESSIONS_KEPT:]
    assert state.sessions_before == max(0, len(expected) - SESSIONS_KEPT)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 9)), max_size=120), st.randoms(use_true_random=False))
def test_history_holds_the_latest_in_event_time_order(picks: list[tuple[int, int]], random_: random.Random) -> None:
    visits = [(T0_MS + minute * MINUTE_MS, f"i{item}", KIND_INDEX["view"]) for minute, item in picks]
    shuffled = list(enumerate(visits))
    random_.shuffle(shuffled)
    # Ids that differ: the dedupe window is another test's.
    state = _fold([event(f"e{n}", "view", "u", visit[0], item=visit[1]) for n, visit in shuffled])
    assert state.history == sorted(visits)[-HISTORY_KEPT:]
    newest_first = list(dict.fromkeys(item for _, item, _ in reversed(state.history)))
    assert recent_items(state, 3) == newest_first[:3]


def test_everything_but_order_of_keys_is_the_same_after_any_shuffle() -> None:
    # Without clicks: those are joined with what was shown before them, so for them arrival matters.
    events = [e for e in shopping(60, users=1) if e["type"] in {"view", "impression", "rating", "search"}]
    events = list({e["id"]: e for e in events}.values())
    expected = _fold(events)
    for seed in range(20):
        shuffled = random.Random(seed).sample(events, len(events))
        state = _fold(shuffled)
        assert state.longs == expected.longs
        assert state.panes == expected.panes
        assert state.history == expected.history
        assert state.touched == expected.touched
        assert state.sessions == expected.sessions
        assert state.pending == expected.pending
        assert state.seen == expected.seen
        assert (state.segment, state.segment_ts_ms) == (expected.segment, expected.segment_ts_ms)


@given(st.lists(st.integers(0, 40), max_size=80))
def test_an_id_counts_once_at_any_offset(ids: list[int]) -> None:
    state = _fold([event(f"e{n}", "view", "u", T0_MS + n, item="i1") for n in ids])
    assert open_session(state, T0_MS, RULES.session_gap_ms)[2] == len(set(ids))
    assert state.applied == len(ids) - 1
    assert len(state.seen) == len(set(ids))


def test_the_dedupe_window_forgets_the_oldest_by_event_time() -> None:
    newest = SEEN_KEPT + 3
    state = _fold([event(f"e{n}", "view", "u", T0_MS + n, item="i1") for n in range(newest)])
    assert sorted(state.seen.values()) == list(range(T0_MS + 3, T0_MS + newest))
    again = _event(**event("e5", "view", "u", T0_MS + 5, item="i1"))
    assert admit(state, again, T0_MS + 5, 1000) == "duplicate"
    assert admit(state, again, T0_MS + 5, 1000) == "redelivered"


def test_a_session_is_open_within_the_gap_of_its_ends() -> None:
    gap_ms = RULES.session_gap_ms
    state = _fold(_views([T0_MS, T0_MS + MINUTE_MS]))
    for as_of_ms in (T0_MS - gap_ms, T0_MS, T0_MS + MINUTE_MS + gap_ms):
        assert open_session(state, as_of_ms, gap_ms) == [T0_MS, T0_MS + MINUTE_MS, 2]
    for as_of_ms in (T0_MS - gap_ms - 1, T0_MS + MINUTE_MS + gap_ms + 1):
        assert open_session(state, as_of_ms, gap_ms) == [0, 0, 0]


def test_touches_keep_counts_and_the_latest_times() -> None:
    times_ms = [T0_MS + n * MINUTE_MS for n in range(12)]
    events = [event(f"e{n}", "purchase" if n % 3 == 0 else "view", "u", ts, item="i1") for n, ts in enumerate(times_ms)]
    random.Random(4).shuffle(events)
    touches = _fold(events).touched["i1"]
    assert (touches[TIMES], touches[PURCHASES]) == (12, 4)
    assert (touches[LAST_INTEREST], touches[LAST_PURCHASE]) == (times_ms[11], times_ms[9])
    assert touches[TOUCH_HEAD:] == times_ms[-TOUCHES_KEPT:]


def test_state_stays_bounded_whatever_a_user_does() -> None:
    kinds = [("view", "item"), ("impression", "items")]
    events = []
    for n in range(1500):
        kind, field = kinds[n % 2]
        value: Any = f"i{n}" if field == "item" else [f"i{n}", f"i{n + 1}"]
        events.append(event(f"e{n}", kind, "u", T0_MS + n * 31 * MINUTE_MS, **{field: value}))
    state = _fold(events)
    assert len(state.seen) == SEEN_KEPT
    assert len(state.history) == HISTORY_KEPT
    assert len(state.touched) == ITEMS_KEPT
    assert len(state.sessions) == SESSIONS_KEPT
    assert state.sessions_before == 1500 - SESSIONS_KEPT
    assert len(state.pending) == PENDING_KEPT
    assert "i1498" in state.touched
    assert "i0" not in state.touched
    assert len(codec.encode(state)) < 20_000


@pytest.mark.parametrize(
    ("click", "joined"),
    [
        ({"item": "i2", "ts": T0_MS}, True),
        ({"item": "i2", "ts": T0_MS + RULES.attribution_window_ms}, True),
        ({"item": "i2", "ts": T0_MS + RULES.attribution_window_ms + 1}, False),
        ({"item": "i2", "ts": T0_MS - 1}, False),
        ({"item": "i9", "ts": T0_MS + 1}, False),
        ({"item": "i9", "ts": T0_MS + 1, "decision_id": "d1"}, True),
        ({"item": "i2", "ts": T0_MS + 1, "decision_id": "d2"}, False),
    ],
)
def test_a_click_answers_an_impression_of_its_item_or_decision_in_time(click: dict[str, Any], joined: bool) -> None:
    shown = event("s", "impression", "u", T0_MS, items=["i1", "i2", "i1"], decision_id="d1")
    state = _fold([shown, {"id": "c", "type": "click", "user": "u", **click}])
    assert state.attributed == joined
    assert state.pending == [(T0_MS, "d1", ["i1", "i2"])]


def test_the_segment_is_the_latest_told_and_never_a_long_text() -> None:
    def told(n: int, ts_ms: int, segment: Any) -> dict[str, Any]:
        return event(f"e{n}", "search", "u", ts_ms, context={"segment": segment})

    long_text = "x" * (SEGMENT_CHARS + 1)
    state = _fold([told(0, T0_MS + 5, "new"), told(1, T0_MS, "old"), told(2, T0_MS + 9, long_text), told(3, T0_MS, 7)])
    assert (state.segment, state.segment_ts_ms) == ("new", T0_MS + 5)


def test_a_state_comes_back_from_bytes_as_it_was() -> None:
    state = _fold(shopping(80, users=1))
    raw = codec.encode(state)
    assert codec.decode(raw) == state
    more = shopping(20, users=1, seed=9)
    assert codec.encode(_fold(more, codec.decode(raw))) == codec.encode(_fold(more, state))
