"""Features: an exact number each, and the same number on the stream and in serving."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logs import DAY_MS, HOUR_MS, MINUTE_MS, T0_MS, event, shopping

from persona_stream.serving.item_columns import ItemColumns
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.events import KIND_INDEX, Event
from persona_stream.vocabulary.messages import ItemEvent
from tables.attribution import Attribution
from tables.counters import stack_longs, stack_panes
from tables.covisits import co_visited, packed
from tables.features.attributes import AttributeColumns
from tables.features.blocks import CounterBlock, Rows, RowsBuilder
from tables.features.kind import NEVER_HOURS
from tables.features.plan import plan_of
from tables.items import ItemState, apply_item_event, covisit_counts
from tables.users import Rules, UserState, apply_event, counted

GAP_MS = 30 * MINUTE_MS
RULES = Rules(session_gap_ms=GAP_MS, attribution=Attribution(GAP_MS), segment_field="segment", lateness_ms=HOUR_MS)
# Midnight, so that panes of every width begin with it.
NOON_MS = T0_MS // DAY_MS * DAY_MS + 12 * HOUR_MS
PLAN = plan_of(Settings())
AS_OF_MS = NOON_MS + 20 * MINUTE_MS


def _attributes() -> AttributeColumns:
    columns = AttributeColumns(PLAN.needs)
    words = ("red", "blue", "warm", "small", "wool", "hat", "shoe", "coat")
    for n in range(12):
        title = " ".join(words[(n + at) % 8] for at in range(1 + n % 5))
        categories = [f"c{n % 3}", f"d{n % 5}"][: 1 + n % 2]
        vector = [math.sin(n + at) for at in range(12)]
        columns.put(
            f"i{n}",
            {"title": title, "category": categories, "brand": f"b{n % 4}", "price": 1.5 + n / 7, "vector": vector},
        )
    return columns


ATTRIBUTES = _attributes()


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


def _rows(states: list[UserState], items: list[str], as_of_ms: int, *, ordered: bool = False) -> Rows:
    asked = RowsBuilder(ATTRIBUTES, GAP_MS)
    for number, state in enumerate(states):
        places = np.arange(len(items)) if ordered else None
        asked.add(f"u{number}", state, items, as_of_ms, positions=places)
    return asked.rows()


def _person(states: list[UserState], items: list[str], *, ordered: bool = False) -> list[dict[str, float]]:
    columns = PLAN.person(_rows(states, items, AS_OF_MS, ordered=ordered))
    return [dict(zip(PLAN.person_names, row, strict=True)) for row in columns.tolist()]


def _never() -> float:
    return math.log1p(NEVER_HOURS)


def test_what_is_known_of_the_user() -> None:
    row = _person([_shopper()], ["i1"])[0]
    expected = {
        "user_events_1h": math.log1p(2),
        "user_events_1d": math.log1p(2),
        "user_events_7d": math.log1p(4),
        "user_purchases_1d": 0.0,
        "user_purchases_7d": math.log1p(2),
        "user_clicks_1h": math.log1p(1),
        "user_events_total": math.log1p(5),
        "user_click_rate_7d": (1 + 20 * 0.5) / (1 + 20),
        "user_purchase_share": (2 + 20 * 0.1) / (4 + 20),
        "user_idle_hours": math.log1p(1 / 6),
        "user_age_hours": math.log1p(96 + 1 / 3),
        "user_breadth_7d": math.log1p(2),
        "session_events": math.log1p(3),
        "session_hours": math.log1p(1 / 3),
        "session_items": math.log1p(2),
        "session_returning": 0.0,
        "session_clicking": 1 / 2,
        "session_pace": math.log1p(600),
        "sessions_depth": math.log1p((1 + 1 + 3) / 3),
        "sessions_duration": math.log1p((1 / 6) / 3),
        "sessions_gap": math.log1p(48),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_what_is_known_of_the_user_with_the_item() -> None:
    rows = _person([_shopper()], ["i1", "i2", "i3"], ordered=True)
    ages_hours = (1 / 6, 48 + 1 / 3, 96 + 1 / 3)
    expected = {
        "pair_touches": math.log1p(3),
        "pair_clicks": math.log1p(1),
        "pair_purchases": math.log1p(2),
        "pair_interest_idle_hours": math.log1p(1 / 6),
        "pair_bought_idle_hours": math.log1p(48 + 1 / 3),
        "pair_decayed_60d": sum(math.exp(-age / 1440) for age in ages_hours),
        "pair_decayed_7d": sum(math.exp(-age / 168) for age in ages_hours),
        "pair_decayed_1h": sum(math.exp(-age) for age in ages_hours),
        "pair_interest_in_session": 1.0,
        "pair_bought_in_session": 0.0,
        "pair_is_latest": 1.0,
        "pair_cycle": math.log((48 + 1 / 3) / 48),
        "position": 0.0,
        "shown_1h": math.log1p(1),
    }
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
        apply_item_event(state, ItemEvent("i1", KIND_INDEX[kind], ts_ms, value_milli, 0, offset, "", 7, packed(near)))
    columns = PLAN.item(_counted([state], AS_OF_MS, ["i2", "i9"]))
    expected = {
        "item_events_5m": math.log1p(1),
        "item_events_1h": math.log1p(2),
        "item_events_1d": math.log1p(3),
        "item_views_1d": math.log1p(1),
        "item_clicks_1h": math.log1p(1),
        "item_clicks_7d": math.log1p(1),
        "item_carts_7d": 0.0,
        "item_purchases_1d": math.log1p(1),
        "item_purchases_7d": math.log1p(2),
        "item_purchases_total": math.log1p(2),
        "item_events_total": math.log1p(5),
        "item_click_rate_1d": (1 + 20 * 0.04) / (0 + 20),
        "item_click_rate_7d": (1 + 20 * 0.04) / (1 + 20),
        "item_conversion": (2 + 20 * 0.1) / (4 + 20),
        "item_trend": math.log((3 + 1) / (4 / 7 + 1)),
        "item_trend_1h": math.log((2 + 1) / (3 / 24 + 1)),
        "item_age_hours": math.log1p(72 + 1 / 3),
        "item_idle_hours": math.log1p(1 / 30),
        "item_value": math.log1p(6),
        "covisits": math.log1p(2),
    }
    assert dict(zip(PLAN.item_names, columns[0].tolist(), strict=True)) == pytest.approx(expected, rel=1e-6)


def _counted(states: list[ItemState], as_of_ms: int, recent: list[str]) -> CounterBlock:
    return CounterBlock(
        stack_panes([state.panes for state in states]),
        stack_longs([state.longs for state in states]),
        np.full(len(states), as_of_ms),
        covisits=covisit_counts([bytes(state.visits) for state in states], [packed(recent)] * len(states)),
    )


def test_a_blank_item_and_a_stranger_have_features_too() -> None:
    blank = PLAN.item(ItemColumns().counters(np.array([0]), np.array([0]), AS_OF_MS))
    stranger = PLAN.person(_rows([UserState()], ["unheard of"], AS_OF_MS))
    assert np.isfinite(blank).all()
    # Attributes that nobody knows are missing, and nothing else is.
    missing = {name for name, value in zip(PLAN.person_names, stranger[0], strict=True) if not np.isfinite(value)}
    assert missing == {"category_new", "price", "price_quantile", "price_rank", "price_for_me"}
    assert stranger.shape[1] + blank.shape[1] == PLAN.features.width


def test_the_shipped_catalogue_has_sixty_features_and_more_each_with_ascending_edges() -> None:
    assert PLAN.features.width >= 60
    assert len(set(PLAN.features.names)) == PLAN.features.width
    assert all(list(edges) == sorted(set(edges)) for edges in PLAN.features.edges)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(0, 3 * DAY_MS))
def test_rows_alone_are_rows_together_to_the_last_bit(seed: int, count: int, later_ms: int) -> None:
    # What the learner learns from must not depend on how the log was cut into slices.
    events = shopping(count, seed=seed, users=3)
    states = [_user([fields for fields in events if fields["user"] == user]) for user in ("u0", "u1", "u2")]
    as_of_ms = T0_MS + count * MINUTE_MS + later_ms
    items = [f"i{n}" for n in range(15)]
    together = PLAN.person(_rows(states, items, as_of_ms))
    alone = [PLAN.person(_rows([state], items, as_of_ms)) for state in states]
    assert together.tobytes() == np.concatenate(alone).tobytes()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(0, 9 * DAY_MS))
def test_the_item_side_is_the_same_on_the_stream_and_in_serving(seed: int, count: int, later_ms: int) -> None:
    events = shopping(count, seed=seed)
    states: dict[str, ItemState] = {}
    user = UserState()
    for offset, fields in enumerate(events):
        made = Event(**fields)
        for item in fields.get("items", [fields.get("item", "i0")]):
            kind, near = KIND_INDEX.get(made.type, 5), packed(co_visited(user))
            moved = ItemEvent(item, kind, fields["ts"], 500, offset, 0, f"s{offset % 3}", 7, near)
            apply_item_event(states.setdefault(item, ItemState()), moved)
        apply_event(user, made, counted(made, fields["ts"], RULES), RULES)
    as_of_ms = T0_MS + count * MINUTE_MS + later_ms

    served = ItemColumns()
    for item, state in states.items():
        served.put(item, state)
    recent, items = co_visited(user), list(states)
    rows = served.rows(items)
    columns = PLAN.item(served.counters(rows, served.covisit_counts(rows, recent), as_of_ms))

    held = list(states.values())
    stream = PLAN.item(_counted(held, as_of_ms, recent))
    assert columns.tobytes() == stream.tobytes()
    for at, state in enumerate(held):
        assert PLAN.item(_counted([state], as_of_ms, recent))[0].tobytes() == stream[at].tobytes()
