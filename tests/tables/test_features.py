"""Features: an exact number each, and the same number on the stream and in serving."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logs import DAY_MS, HOUR_MS, MINUTE_MS, T0_MS, event, shopping

from persona_stream.serving.item_columns import ItemColumns
from persona_stream.vocabulary.events import KIND_INDEX, Event
from persona_stream.vocabulary.messages import ItemEvent
from tables.counters import Floats, stack_longs, stack_panes
from tables.features import (
    CROSS_FEATURES,
    FEATURE_HASH,
    FEATURE_NAMES,
    FEATURES,
    ITEM_FEATURES,
    NEVER_HOURS,
    PERSON_WIDTH,
    USER_FEATURES,
    item_columns,
)
from tables.items import ItemState, apply_item_event, covisit_count
from tables.person import PersonRows, co_visited, person_columns
from tables.users import Rules, UserState, apply_event, counted

GAP_MS = 30 * MINUTE_MS
RULES = Rules(session_gap_ms=GAP_MS, attribution_window_ms=GAP_MS, segment_field="segment", lateness_ms=HOUR_MS)
# Midnight, so that panes of every width begin with it.
NOON_MS = T0_MS // DAY_MS * DAY_MS + 12 * HOUR_MS
AS_OF_MS = NOON_MS + 20 * MINUTE_MS


def _user(events: list[dict[str, Any]]) -> UserState:
    state = UserState()
    for fields in events:
        made = Event(**fields)
        apply_event(state, made, counted(made, fields["ts"], RULES), RULES)
    return state


def _shopper() -> UserState:
    """Bought i1 twice, days ago; looked at i2 and clicked i1 in the session that is open."""
    return _user(
        [
            event("a", "purchase", "u", NOON_MS - 4 * DAY_MS, item="i1"),
            event("b", "purchase", "u", NOON_MS - 2 * DAY_MS, item="i1"),
            event("c", "impression", "u", NOON_MS, items=["i1", "i2"]),
            event("d", "view", "u", NOON_MS, item="i2"),
            event("e", "click", "u", NOON_MS + 10 * MINUTE_MS, item="i1"),
        ]
    )


def _named(columns: Floats, features: tuple[Any, ...]) -> list[dict[str, float]]:
    names = [feature.name for feature in features]
    return [dict(zip(names, row, strict=True)) for row in columns.tolist()]


def _never() -> float:
    return math.log1p(NEVER_HOURS)


def test_what_is_known_of_the_user() -> None:
    row = _named(person_columns(_shopper(), ["i1"], AS_OF_MS, GAP_MS, ordered=False), FEATURES[:PERSON_WIDTH])[0]
    expected = {
        "user_events_1h": math.log1p(2),
        "user_events_1d": math.log1p(2),
        "user_events_7d": math.log1p(4),
        "user_purchases_7d": math.log1p(2),
        "user_clicks_1h": math.log1p(1),
        "user_events_total": math.log1p(5),
        "session_events": math.log1p(3),
        "session_hours": math.log1p(1 / 3),
        "user_idle_hours": math.log1p(1 / 6),
    }
    assert {feature.name for feature in USER_FEATURES} == expected.keys()
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_what_is_known_of_the_user_with_the_item() -> None:
    items = ["i1", "i2", "i3"]
    rows = _named(person_columns(_shopper(), items, AS_OF_MS, GAP_MS, ordered=True), FEATURES[:PERSON_WIDTH])
    ages_hours = (1 / 6, 48 + 1 / 3, 96 + 1 / 3)
    mean_gap_hours = (96 + 1 / 6) / 2
    expected = {
        "pair_touches": math.log1p(3),
        "pair_purchases": math.log1p(2),
        "pair_interest_idle_hours": math.log1p(1 / 6),
        "pair_bought_idle_hours": math.log1p(48 + 1 / 3),
        "pair_decayed_60d": sum(math.exp(-age / 1440) for age in ages_hours),
        "pair_decayed_7d": sum(math.exp(-age / 168) for age in ages_hours),
        "pair_interest_in_session": 1.0,
        "pair_bought_in_session": 0.0,
        "pair_is_latest": 1.0,
        "pair_cycle": math.log((48 + 1 / 3) / mean_gap_hours),
        "position": 0.0,
    }
    assert {feature.name for feature in CROSS_FEATURES} == expected.keys()
    assert {name: rows[0][name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert rows[1]["pair_is_latest"] == 0.0
    assert rows[1]["pair_bought_idle_hours"] == pytest.approx(_never())
    assert rows[1]["position"] == pytest.approx(math.log1p(1))
    strange = dict.fromkeys(expected, 0.0) | {
        "pair_interest_idle_hours": _never(),
        "pair_bought_idle_hours": _never(),
        "position": math.log1p(2),
    }
    assert {name: rows[2][name] for name in strange} == pytest.approx(strange, rel=1e-6)


def test_what_is_known_of_the_item() -> None:
    state = ItemState()
    happened = [
        ("impression", NOON_MS - 3 * DAY_MS, 0, []),
        ("purchase", NOON_MS - 3 * DAY_MS, 4000, []),
        ("view", NOON_MS - 10 * HOUR_MS, 0, ["i2"]),
        ("click", NOON_MS, 0, ["i2", "i3"]),
        ("purchase", NOON_MS + 18 * MINUTE_MS, 8000, ["i4"]),
    ]
    for offset, (kind, ts_ms, value_milli, near) in enumerate(happened):
        apply_item_event(state, ItemEvent("i1", KIND_INDEX[kind], ts_ms, value_milli, 0, offset, "", 7, near))
    columns = item_columns(
        stack_panes([state.panes]),
        stack_longs([state.longs]),
        np.array([covisit_count(state, ["i2", "i9"])]),
        np.array([AS_OF_MS]),
    )
    expected = {
        "item_events_5m": math.log1p(1),
        "item_events_1h": math.log1p(2),
        "item_events_1d": math.log1p(3),
        "item_clicks_1h": math.log1p(1),
        "item_clicks_7d": math.log1p(1),
        "item_purchases_1d": math.log1p(1),
        "item_purchases_7d": math.log1p(2),
        "item_purchases_total": math.log1p(2),
        "item_events_total": math.log1p(5),
        "item_click_rate_7d": (1 + 20 * 0.04) / (1 + 20),
        "item_conversion": (2 + 20 * 0.1) / (4 + 20),
        "item_trend": math.log((3 + 1) / (4 / 7 + 1)),
        "item_age_hours": math.log1p(72 + 1 / 3),
        "item_idle_hours": math.log1p(1 / 30),
        "item_value": math.log1p(6),
        "covisits": math.log1p(2),
    }
    assert {feature.name for feature in ITEM_FEATURES} == expected.keys()
    assert _named(columns, ITEM_FEATURES)[0] == pytest.approx(expected, rel=1e-6)


def test_a_blank_item_and_a_stranger_have_features_too() -> None:
    blank = ItemColumns().features(np.array([0]), np.array([], dtype=np.int64), AS_OF_MS)
    stranger = person_columns(UserState(), ["i1"], AS_OF_MS, GAP_MS, ordered=False)
    assert np.isfinite(blank).all()
    assert np.isfinite(stranger).all()
    assert stranger.shape[1] + blank.shape[1] == len(FEATURE_NAMES)


def test_the_hash_names_the_definition() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURES)
    assert len(FEATURE_HASH) == 16
    assert all(list(feature.edges) == sorted(set(feature.edges)) for feature in FEATURES)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(0, 3 * DAY_MS))
def test_rows_alone_are_rows_together_to_the_last_bit(seed: int, count: int, later_ms: int) -> None:
    events = shopping(count, seed=seed, users=3)
    states = [_user([fields for fields in events if fields["user"] == user]) for user in ("u0", "u1", "u2")]
    as_of_ms = T0_MS + count * MINUTE_MS + later_ms
    items = [f"i{n}" for n in range(15)]

    together = PersonRows()
    for state in states:
        together.add_user(state, as_of_ms, GAP_MS)
        for item in items:
            together.add_row(state, item)
    served = [person_columns(state, items, as_of_ms, GAP_MS, ordered=False) for state in states]
    assert together.columns().tobytes() == np.concatenate(served).tobytes()

    row, alone = 0, together.columns()
    for state in states:
        for item in items:
            one = PersonRows()
            one.add_user(state, as_of_ms, GAP_MS)
            one.add_row(state, item)
            assert one.columns()[0].tobytes() == alone[row].tobytes()
            row += 1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(0, 9 * DAY_MS))
def test_the_item_side_is_the_same_on_the_stream_and_in_serving(seed: int, count: int, later_ms: int) -> None:
    events = shopping(count, seed=seed)
    states: dict[str, ItemState] = {}
    user = UserState()
    for offset, fields in enumerate(events):
        made = Event(**fields)
        for item in fields.get("items", [fields.get("item", "i0")]):
            kind, near = KIND_INDEX.get(made.type, 5), sorted(co_visited(user))
            moved = ItemEvent(item, kind, fields["ts"], 500, offset, 0, f"s{offset % 3}", 7, near)
            apply_item_event(states.setdefault(item, ItemState()), moved)
        apply_event(user, made, counted(made, fields["ts"], RULES), RULES)
    as_of_ms = T0_MS + count * MINUTE_MS + later_ms

    served = ItemColumns()
    for item, state in states.items():
        served.put(item, state)
    recent, items = co_visited(user), list(states)
    columns = served.features(served.rows(items), served.rows(recent), as_of_ms)

    held = list(states.values())
    covisits = np.array([covisit_count(state, recent) for state in held])
    stream = item_columns(
        stack_panes([state.panes for state in held]),
        stack_longs([state.longs for state in held]),
        covisits,
        np.full(len(held), as_of_ms),
    )
    assert columns.tobytes() == stream.tobytes()
    for at, state in enumerate(held):
        alone = item_columns(
            stack_panes([state.panes]), stack_longs([state.longs]), covisits[at : at + 1], np.array([as_of_ms])
        )
        assert alone[0].tobytes() == stream[at].tobytes()
