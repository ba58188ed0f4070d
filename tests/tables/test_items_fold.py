"""The items fold: co-visits and segments in any order, and once from each source partition."""

import random
import struct
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from support.logs import DAY_MS, T0_MS

from persona_stream.vocabulary.events import KIND_INDEX
from persona_stream.vocabulary.messages import ItemEvent
from tables.covisits import NEIGHBOURS_KEPT, RECENT_ITEMS, packed, sample
from tables.items import (
    SEGMENT_DAYS,
    SEGMENTS_KEPT,
    VISITS_KEPT,
    ItemState,
    apply_item_event,
    codec,
    covisit_counts,
    covisits_of,
    segment_count,
)
from tables.sketches import NAME_HASHES

VIEW, IMPRESSION = KIND_INDEX["view"], KIND_INDEX["impression"]
USER = 7


def _seen(
    ts_ms: int, *, offset: int, partition: int = 0, near: list[str] | None = None, segment: str = "", kind: int = VIEW
) -> ItemEvent:
    return ItemEvent(
        item="i1",
        kind=kind,
        ts_ms=ts_ms,
        value_milli=250,
        source_partition=partition,
        source_offset=offset,
        segment=segment,
        visitor=USER,
        neighbours=_sample(set(near or ()), ts_ms),
    )


def _sample(names: set[str], ts_ms: int) -> bytes:
    return sample([NAME_HASHES[name] for name in names], ts_ms)


def _fold(events: list[ItemEvent], state: ItemState | None = None) -> ItemState:
    state = ItemState() if state is None else state
    for made in events:
        apply_item_event(state, made)
    return state


NAMES = st.lists(st.sampled_from("abcdefghij"), max_size=9)
PICKS = st.lists(st.tuples(st.integers(0, 30), NAMES, st.integers(0, 2 * SEGMENTS_KEPT).map(str)), max_size=60)


@given(PICKS, st.randoms(use_true_random=False))
def test_events_in_any_order_leave_the_same_bytes(
    picks: list[tuple[int, list[str], str]], random_: random.Random
) -> None:
    # Each event is of a source partition of its own, so that none is taken for a redelivery.
    events = [
        _seen(T0_MS + day * DAY_MS, partition=n, offset=0, near=near, segment=segment)
        for n, (day, near, segment) in enumerate(picks)
    ]
    expected = codec.encode(_fold(events))
    random_.shuffle(events)
    assert codec.encode(_fold(events)) == expected


@given(PICKS, st.randoms(use_true_random=False))
def test_neighbours_told_in_parts_or_again_are_a_sample_of_all_of_them(
    picks: list[tuple[int, list[str], str]], random_: random.Random
) -> None:
    of_visit: dict[int, set[str]] = {}
    parts = []
    for day, near, _ in picks:
        of_visit.setdefault(T0_MS + day, set()).update(near)
        parts.append(_seen(T0_MS + day, offset=0, near=near, kind=-1))
    told = parts + random_.sample(parts, len(parts) // 2)
    random_.shuffle(told)
    expected = [
        struct.pack("=qq", ts_ms, USER) + _sample(names, ts_ms).ljust(8 * NEIGHBOURS_KEPT, b"\0")
        for ts_ms, names in sorted(of_visit.items())
        if names
    ]
    state = _fold(told)
    assert state.visits == b"".join(expected[-VISITS_KEPT:])
    assert not state.applied, "a part is no event: nothing is counted"


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("xyz")), max_size=40))
def test_a_segment_is_counted_by_the_day(picks: list[tuple[int, str]]) -> None:
    events = [_seen(T0_MS + day * DAY_MS, offset=n, segment=name) for n, (day, name) in enumerate(picks)]
    state = _fold(events)
    last_day = max((day for day, _ in picks), default=0)
    expected = Counter(name for day, name in picks if day > last_day - SEGMENT_DAYS)
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


def test_showing_an_item_is_no_interest_of_a_segment() -> None:
    state = _fold([_seen(T0_MS, offset=0, segment="x", kind=IMPRESSION)])
    assert (state.visits, state.segments) == (b"", {})


def _counted(state: ItemState, recent: list[str]) -> int:
    return int(covisit_counts([bytes(state.visits)], [packed(recent)])[0])


def test_covisits_are_counted_over_the_latest_visits() -> None:
    state = _fold([_seen(T0_MS + n, offset=n, near=["a", "c"] if n % 2 else ["a"]) for n in range(4)])
    assert [_counted(state, recent) for recent in (["a", "b"], ["c", "a"], [])] == [4, 6, 0]


RECENT = st.lists(st.sampled_from("abcdefghij"), max_size=RECENT_ITEMS, unique=True)


@given(st.lists(st.tuples(PICKS, RECENT), min_size=1, max_size=4))
def test_covisits_of_items_together_are_those_of_each_alone(
    asked: list[tuple[list[tuple[int, list[str], str]], list[str]]],
) -> None:
    states = [
        _fold([_seen(T0_MS + day * DAY_MS, offset=n, near=near) for n, (day, near, _) in enumerate(picks)])
        for picks, _ in asked
    ]
    expected = [
        sum(digest in {NAME_HASHES[name] for name in recent} for digest in covisits_of(state.visits).ravel().tolist())
        for state, (_, recent) in zip(states, asked, strict=True)
    ]
    together = covisit_counts([bytes(state.visits) for state in states], [packed(recent) for _, recent in asked])
    assert together.tolist() == expected
    assert [_counted(state, recent) for state, (_, recent) in zip(states, asked, strict=True)] == expected


def test_a_negative_is_remembered_but_not_counted() -> None:
    negative = _seen(T0_MS, offset=4, kind=-1)
    negative.label = 0
    assert _fold([negative]) == ItemState(applied={0: 4})


def test_of_too_many_segments_the_same_ones_are_kept_and_counted_whole() -> None:
    names = [f"s{n:02}" for n in range(2 * SEGMENTS_KEPT)] * 3
    orders = [names, names[::-1], sorted(names)]
    states = [_fold([_seen(T0_MS, offset=n, segment=name) for n, name in enumerate(order)]) for order in orders]
    assert len(states[0].segments) == SEGMENTS_KEPT
    assert {segment_count(ring, T0_MS) for ring in states[0].segments.values()} == {3}
    assert all(state.segments == states[0].segments for state in states)


def test_a_state_comes_back_from_bytes_as_it_was() -> None:
    state = _fold([_seen(T0_MS + n, offset=n, near=["a", "b"], segment="x") for n in range(50)])
    assert codec.decode(codec.encode(state)) == state
