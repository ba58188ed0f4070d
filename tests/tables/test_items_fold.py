"""The items fold: covisits and segments in any order, and once from each source partition."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from support.logs import DAY_MS, T0_MS

from persona_stream.vocabulary.events import KIND_INDEX
from persona_stream.vocabulary.messages import ItemEvent
from tables.items import (
    COVISITS_KEPT,
    SEGMENT_DAYS,
    SEGMENTS_KEPT,
    ItemState,
    apply_item_event,
    codec,
    covisit_count,
    segment_count,
)

VIEW, IMPRESSION = KIND_INDEX["view"], KIND_INDEX["impression"]


def _seen(
    ts_ms: int, *, offset: int, partition: int = 0, recent: list[str] | None = None, segment: str = "", kind: int = VIEW
) -> ItemEvent:
    return ItemEvent(
        item="i1",
        kind=kind,
        ts_ms=ts_ms,
        value_milli=250,
        source_partition=partition,
        source_offset=offset,
        recent_items=recent or [],
        segment=segment,
    )


def _fold(events: list[ItemEvent], state: ItemState | None = None) -> ItemState:
    state = ItemState() if state is None else state
    for made in events:
        apply_item_event(state, made)
    return state


PICKS = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=5), st.sampled_from("xyz")),
    max_size=40,
)


@given(PICKS, st.randoms(use_true_random=False))
def test_events_in_any_order_leave_the_same_state(
    picks: list[tuple[int, list[str], str]], random_: random.Random
) -> None:
    # Each event is of a source partition of its own, so that none is taken for a redelivery.
    events = [
        _seen(T0_MS + day * DAY_MS, partition=n, offset=0, recent=recent, segment=segment)
        for n, (day, recent, segment) in enumerate(picks)
    ]
    expected = _fold(events)
    random_.shuffle(events)
    state = _fold(events)
    assert (state.panes, state.longs, state.segments) == (expected.panes, expected.longs, expected.segments)
    assert state.covisit_items == expected.covisit_items
    assert state.covisit_ts_ms == expected.covisit_ts_ms
    assert state.applied == expected.applied
    latest = sorted((made.ts_ms, near) for made in events for near in made.recent_items)[-COVISITS_KEPT:]
    assert list(zip(state.covisit_ts_ms, state.covisit_items, strict=True)) == latest


@given(PICKS)
def test_a_segment_is_counted_by_the_day(picks: list[tuple[int, list[str], str]]) -> None:
    events = [_seen(T0_MS + day * DAY_MS, offset=n, segment=name) for n, (day, _, name) in enumerate(picks)]
    state = _fold(events)
    last_day = max((day for day, _, _ in picks), default=0)
    expected = Counter(name for day, _, name in picks if day > last_day - SEGMENT_DAYS)
    found = {name: segment_count(ring, T0_MS + last_day * DAY_MS) for name, ring in state.segments.items()}
    assert {name: count for name, count in found.items() if count} == dict(expected)


def test_each_source_partition_counts_once() -> None:
    first = [_seen(T0_MS, partition=p, offset=o) for p in (0, 1) for o in (3, 7)]
    state = _fold(first)
    raw = codec.encode(state)
    assert not any(apply_item_event(state, again) for again in first)
    assert codec.encode(state) == raw
    assert state.applied == {0: 7, 1: 7}
    assert apply_item_event(state, _seen(T0_MS, partition=1, offset=8))


def test_showing_an_item_is_no_covisit_and_no_interest_of_a_segment() -> None:
    state = _fold([_seen(T0_MS, offset=0, recent=["a"], segment="x", kind=IMPRESSION)])
    assert (state.covisit_items, state.segments) == ([], {})
    state = _fold([_seen(T0_MS, offset=1, recent=["i1", "a"])], state)
    assert state.covisit_items == ["a"]
    assert covisit_count(state, ["a", "b"]) == 1


def test_a_negative_is_remembered_but_not_counted() -> None:
    state = _fold([_seen(T0_MS, offset=4, recent=["a"], kind=-1)])
    assert state == ItemState(applied={0: 4})


def test_the_segment_longest_unseen_makes_room() -> None:
    names = [f"s{n:02}" for n in range(SEGMENTS_KEPT + 1)]
    state = _fold([_seen(T0_MS + n * DAY_MS, offset=n, segment=name) for n, name in enumerate(names)])
    assert sorted(state.segments) == names[1:]


def test_a_state_comes_back_from_bytes_as_it_was() -> None:
    state = _fold([_seen(T0_MS + n, offset=n, recent=["a", "b"], segment="x") for n in range(50)])
    assert codec.decode(codec.encode(state)) == state
