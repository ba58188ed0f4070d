"""The users fold: sessions, history, dedupe and impressions, in any order of arrival."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logs import HOUR_MS, MINUTE_MS, T0_MS, event, shopping

from persona_stream.vocabulary.events import KIND_INDEX, Event
from tables.attribution import Attribution
from tables.covisits import co_visited, co_visited_hashes, packed
from tables.features.attributes import AttributeColumns, Needs
from tables.users import (
    PENDING_KEPT,
    SEEN_KEPT,
    SEEN_MOST,
    SEGMENT_CHARS,
    SESSIONS_KEPT,
    VISITS_KEPT,
    Rules,
    UserState,
    admit,
    answered_impressions,
    apply_event,
    codec,
    counted,
    open_session,
    recent_items,
)
from tables.visits import KIND_BITS, RecentVisits

RULES = Rules(
    session_gap_ms=30 * MINUTE_MS, attribution=Attribution(30 * MINUTE_MS), segment_field="segment", lateness_ms=HOUR_MS
)


def _event(**fields: Any) -> Event:
    return Event(**fields)


def _fold(events: list[dict[str, Any]], state: UserState | None = None) -> UserState:
    state = UserState() if state is None else state
    for offset, fields in enumerate(events, start=state.applied + 1):
        made = Event(**fields)
        if admit(state, made, fields["ts"], offset, RULES) == "new":
            apply_event(state, made, counted(made, fields["ts"], RULES), RULES)
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


# Gaps around the session gap, to the millisecond; sessions enough for some to be forgotten.
TIMES = st.lists(
    st.tuples(st.integers(0, 25), st.sampled_from([0, 1, 15 * MINUTE_MS, 30 * MINUTE_MS, 30 * MINUTE_MS + 1])),
    min_size=1,
    max_size=80,
).map(lambda steps: [T0_MS + whole * 61 * MINUTE_MS + part for whole, part in steps])


def _late_by_chance(times_ms: list[int], random_: random.Random) -> list[int]:
    """In time's order, but each as late as is allowed, by chance."""
    return sorted(times_ms, key=lambda ts_ms: ts_ms + random_.randint(0, RULES.lateness_ms))


@given(TIMES, st.randoms(use_true_random=False))
def test_sessions_are_the_same_whatever_the_order(times_ms: list[int], random_: random.Random) -> None:
    expected = _sessions_of(times_ms)
    over_ms = max(times_ms) - RULES.lateness_ms - RULES.session_gap_ms
    forgotten = max(0, sum(last_ms < over_ms for _, last_ms, _ in expected) - SESSIONS_KEPT)
    state = _fold(_views(_late_by_chance(times_ms, random_)))
    assert [*state.sessions] == expected[forgotten:]
    assert state.sessions_before == forgotten


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 9)), max_size=120), st.randoms(use_true_random=False))
def test_visits_are_the_latest_in_event_time_order(picks: list[tuple[int, int]], random_: random.Random) -> None:
    visits = [(T0_MS + minute * MINUTE_MS, f"i{item}", KIND_INDEX["view"]) for minute, item in picks]
    shuffled = list(enumerate(visits))
    random_.shuffle(shuffled)
    # Ids that differ: the dedupe window is another test's.
    state = _fold([event(f"e{n}", "view", "u", visit[0], item=visit[1]) for n, visit in shuffled])
    assert state.visits == sorted(visits)
    newest_first = list(dict.fromkeys(item for _, item, _ in reversed(state.visits)))
    assert recent_items(state, 3) == newest_first[:3]


@given(st.integers(0, 1000), st.integers(1, 150), st.randoms(use_true_random=False))
def test_any_arrival_within_the_lateness_leaves_the_same_bytes(seed: int, count: int, random_: random.Random) -> None:
    events = list({e["id"]: e for e in shopping(count, seed=seed, users=1)}.values())
    expected = _fold(sorted(events, key=_ts_ms))
    late = _fold(sorted(events, key=lambda made: _ts_ms(made) + random_.randint(0, RULES.lateness_ms)))
    assert codec.encode(late) == codec.encode(expected)


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_any_repetition_that_is_not_late_changes_nothing(seed: int, random_: random.Random) -> None:
    events = list({e["id"]: e for e in shopping(150, seed=seed, users=1)}.values())
    arrivals = [(_ts_ms(made), made) for made in events]
    arrivals += [(_ts_ms(made) + random_.randint(0, RULES.lateness_ms), made) for made in events * 2]
    repeated = _fold([made for _, made in sorted(arrivals, key=lambda pair: pair[0])])
    repeated.applied = len(events) - 1
    assert codec.encode(repeated) == codec.encode(_fold(sorted(events, key=_ts_ms)))


def _ts_ms(made: dict[str, Any]) -> int:
    return int(made["ts"])


@given(st.lists(st.integers(0, 40), max_size=80))
def test_an_id_counts_once_at_any_offset(ids: list[int]) -> None:
    state = _fold([event(f"e{n}", "view", "u", T0_MS + n, item="i1") for n in ids])
    assert open_session(state, T0_MS, RULES.session_gap_ms)[2] == len(set(ids))
    assert state.applied == len(ids) - 1
    assert len(state.seen) == len(set(ids))


@pytest.mark.parametrize(
    ("step_ms", "count", "kept"),
    [
        (HOUR_MS, SEEN_KEPT + 3, SEEN_KEPT),
        (MINUTE_MS, 2 * SEEN_KEPT, SEEN_KEPT),
        (MINUTE_MS // 2, 3 * SEEN_KEPT, 121),
        (1, SEEN_MOST + 5, SEEN_MOST),
    ],
)
def test_ids_are_remembered_for_the_lateness_or_the_latest_few(step_ms: int, count: int, kept: int) -> None:
    state = _fold([event(f"e{n}", "view", "u", T0_MS + n * step_ms, item="i1") for n in range(count)])
    assert [ts_ms for ts_ms, _ in state.seen] == [T0_MS + n * step_ms for n in range(count - kept, count)]
    oldest = count - kept
    again = _event(**event(f"e{oldest}", "view", "u", T0_MS + oldest * step_ms, item="i1"))
    assert admit(state, again, T0_MS + oldest * step_ms, 10_000, RULES) == "duplicate"
    assert admit(state, again, T0_MS + oldest * step_ms, 10_000, RULES) == "redelivered"


def test_a_session_is_open_within_the_gap_of_its_ends() -> None:
    gap_ms = RULES.session_gap_ms
    state = _fold(_views([T0_MS, T0_MS + MINUTE_MS]))
    for as_of_ms in (T0_MS - gap_ms, T0_MS, T0_MS + MINUTE_MS + gap_ms):
        assert open_session(state, as_of_ms, gap_ms) == [T0_MS, T0_MS + MINUTE_MS, 2]
    for as_of_ms in (T0_MS - gap_ms - 1, T0_MS + MINUTE_MS + gap_ms + 1):
        assert open_session(state, as_of_ms, gap_ms) == [0, 0, 0]


@pytest.mark.parametrize("read", [lambda state: state, lambda state: codec.decode(codec.encode(state))])
def test_what_is_derived_follows_the_visits_however_state_came_about(read: Callable[[UserState], UserState]) -> None:
    events = [event(f"e{n}", "view", "u", T0_MS + n % 700 * MINUTE_MS, item=f"i{n % 9}") for n in range(900)]
    random.Random(4).shuffle(events)
    state = UserState()
    for start in range(0, len(events), 50):
        state = read(_fold(events[start : start + 50], state))
        # Asked for in between, so that they are kept up to date from then on.
        assert sum(map(len, state.touches.values())) == len(state.visits) == len(state.visit_hashes)
    expected: dict[str, list[int]] = {}
    for ts_ms, item, kind in state.visits:
        expected.setdefault(item, []).append(ts_ms << KIND_BITS | kind)
    assert len(state.visits) == VISITS_KEPT
    assert state.touches == expected
    assert state.visit_hashes.tobytes() == packed(item for _, item, _ in state.visits)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 9)), max_size=400), st.integers(0, 100))
def test_visits_kept_as_numbers_and_hashes_follow_the_visits_in_any_order(
    picks: list[tuple[int, int]], asked_at: int
) -> None:
    codes = AttributeColumns(Needs())
    state = UserState()
    for at, (second, item) in enumerate(picks):
        _fold([event(f"e{at}", "view", "u", T0_MS + 1000 * second, item=f"i{item}")], state)
        if at >= asked_at:
            # Kept from the first question on.
            assert state.recent_visits(codes).packed() == RecentVisits(state.visits, codes).packed()
            assert state.visit_hashes.tobytes() == packed(item for _, item, _ in state.visits)
            assert co_visited_hashes(state) == packed(co_visited(state))


def test_state_stays_bounded_whatever_a_user_does() -> None:
    kinds = [("view", "item"), ("impression", "items")]
    events = []
    for n in range(1500):
        kind, field = kinds[n % 2]
        value: Any = f"i{n}" if field == "item" else [f"i{n}", f"i{n + 1}"]
        events.append(event(f"e{n}", kind, "u", T0_MS + n * 31 * MINUTE_MS, **{field: value}))
    state = _fold(events)
    assert len(state.seen) == SEEN_KEPT
    assert len(state.visits) == VISITS_KEPT
    assert len(state.sessions) <= SESSIONS_KEPT + 3
    assert state.sessions_before == 1500 - len(state.sessions)
    assert len(state.pending) == PENDING_KEPT
    assert "i1499" not in state.touches
    assert "i1498" in state.touches
    assert "i0" not in state.touches
    assert len(codec.encode(state)) < 20_000


@pytest.mark.parametrize(
    ("click", "joined"),
    [
        ({"item": "i2", "ts": T0_MS}, True),
        ({"item": "i2", "ts": T0_MS + RULES.attribution.window_ms}, True),
        ({"item": "i2", "ts": T0_MS + RULES.attribution.window_ms + 1}, False),
        ({"item": "i2", "ts": T0_MS - 1}, False),
        ({"item": "i9", "ts": T0_MS + 1}, False),
        ({"item": "i9", "ts": T0_MS + 1, "decision_id": "d1"}, True),
        ({"item": "i2", "ts": T0_MS + 1, "decision_id": "d2"}, False),
    ],
)
def test_a_click_answers_an_impression_of_its_item_or_decision_in_time(click: dict[str, Any], joined: bool) -> None:
    shown = event("s", "impression", "u", T0_MS, items=["i1", "i2", "i1"], decision_id="d1")
    state = _fold([shown])
    answer = _event(**{"id": "c", "type": "click", "user": "u", **click})
    assert bool(answered_impressions(state, answer, click["ts"], RULES)) == joined
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
