"""Window counters against a plain list of events."""

from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.errors import RecoveryError
from persona_stream.vocabulary.events import KINDS
from tables import items, users
from tables.counters import (
    FIRST_TS,
    LAST_TS,
    LONGS_BYTES,
    PANES_BYTES,
    SPANS,
    TOTALS,
    VALUE_COUNT,
    VALUE_MILLI,
    WINDOWS,
    Window,
    add,
    stack_longs,
    stack_panes,
    window_counts,
    window_values,
)
from tables.features.kind import WindowName

DAY_MS = 86_400_000
T0_MS = 1_700_000_000_000

Counted = tuple[int, int, int]
"""(kind, event time in ms, value in thousandths)"""

# Times that are near each other and near the edges of panes, as well as days and weeks apart.
TIMES = st.builds(
    lambda coarse, pane_ms, fine: T0_MS // DAY_MS * DAY_MS + coarse * pane_ms + fine,
    st.integers(0, 12),
    st.sampled_from([window.pane_ms for window in WINDOWS]),
    st.sampled_from([0, 1, 30_000, 59_999]),
)
EVENTS = st.lists(st.tuples(st.integers(0, len(KINDS) - 1), TIMES, st.integers(-5000, 5000)), max_size=40)


def _blocks(events: list[Counted]) -> tuple[bytearray, bytearray]:
    panes, longs = bytearray(PANES_BYTES), bytearray(LONGS_BYTES)
    for kind, ts_ms, value_milli in events:
        add(panes, longs, kind, ts_ms, value_milli)
    return panes, longs


def _oracle(events: list[Counted], window: Window, as_of_ms: int) -> list[int]:
    end_ms = (as_of_ms // window.pane_ms + 1) * window.pane_ms
    inside = [kind for kind, ts_ms, _ in events if end_ms - window.size_ms <= ts_ms < end_ms]
    return [inside.count(kind) for kind in range(len(KINDS))]


@given(EVENTS, st.integers(0, 8 * DAY_MS))
def test_a_window_counts_the_events_in_its_half_open_aligned_range(events: list[Counted], later_ms: int) -> None:
    as_of_ms = max((ts_ms for _, ts_ms, _ in events), default=T0_MS) + later_ms
    panes, _ = _blocks(events)
    for window in SPANS.values():
        found = window_counts(stack_panes([panes]), np.array([as_of_ms]), window)
        assert found[0].tolist() == _oracle(events, window, as_of_ms), window.name


@given(EVENTS, st.integers(0, 8 * DAY_MS))
def test_a_window_sums_the_values_in_it(events: list[Counted], later_ms: int) -> None:
    as_of_ms = max((ts_ms for _, ts_ms, _ in events), default=T0_MS) + later_ms
    panes, _ = _blocks(events)
    for window in SPANS.values():
        end_ms = (as_of_ms // window.pane_ms + 1) * window.pane_ms
        values = [value for _, ts_ms, value in events if end_ms - window.size_ms <= ts_ms < end_ms and value]
        sums, counts = window_values(stack_panes([panes]), np.array([as_of_ms]), window)
        assert (sums.tolist(), counts.tolist()) == ([sum(values)], [len(values)]), window.name


@pytest.mark.parametrize(
    ("codec", "held"),
    [
        (users.codec, [5, bytes(80), bytes(756)]),
        (items.codec, [{}, bytes(80), bytes(756)]),
        (items.codec, [{}, bytes(LONGS_BYTES), bytes(PANES_BYTES), [[T0_MS, 7, ["i2"]]]]),
    ],
)
def test_a_state_of_another_version_is_refused(codec: Codec[Any], held: list[object]) -> None:
    with pytest.raises(RecoveryError, match="not written by this version") as refused:
        codec.decode(msgspec.msgpack.encode(held))
    assert "rebuild" in refused.value.hint


@given(EVENTS.flatmap(lambda events: st.tuples(st.just(events), st.permutations(events))))
def test_events_in_any_order_leave_the_same_bytes(orders: tuple[list[Counted], list[Counted]]) -> None:
    assert _blocks(orders[0]) == _blocks(orders[1])


@given(EVENTS)
def test_totals_hold_every_event_however_old(events: list[Counted]) -> None:
    _, longs = _blocks(events)
    held = stack_longs([longs])[0]
    kinds = [kind for kind, _, _ in events]
    assert held[TOTALS:].tolist() == [kinds.count(kind) for kind in range(len(KINDS))]
    assert held[VALUE_MILLI] == sum(value for _, _, value in events)
    assert held[VALUE_COUNT] == sum(value != 0 for _, _, value in events)
    assert held[FIRST_TS] == min((ts_ms for _, ts_ms, _ in events), default=0)
    assert held[LAST_TS] == max((ts_ms for _, ts_ms, _ in events), default=0)


@given(st.lists(EVENTS, min_size=1, max_size=5), st.integers(0, 2 * DAY_MS))
def test_many_keys_are_read_as_each_alone(keys: list[list[Counted]], later_ms: int) -> None:
    blocks = [_blocks(events)[0] for events in keys]
    as_of_ms = np.array([T0_MS + later_ms + number for number in range(len(keys))])
    for window in SPANS.values():
        together = window_counts(stack_panes(blocks), as_of_ms, window)
        alone = [
            window_counts(stack_panes([block]), as_of_ms[at : at + 1], window)[0] for at, block in enumerate(blocks)
        ]
        assert together.tolist() == [counts.tolist() for counts in alone]


def test_every_window_that_features_may_name_can_be_read() -> None:
    assert list(SPANS) == list(get_args(WindowName))
    assert [SPANS[window.name] for window in WINDOWS] == list(WINDOWS)


def test_an_event_leaves_the_window_with_its_pane() -> None:
    five_minutes = WINDOWS[0]
    start_ms = T0_MS // five_minutes.pane_ms * five_minutes.pane_ms
    panes, _ = _blocks([(0, start_ms, 0)])
    held = stack_panes([panes])

    def count(as_of_ms: int) -> int:
        return int(window_counts(held, np.array([as_of_ms]), five_minutes).sum())

    assert count(start_ms) == 1
    assert count(start_ms + 5 * 60_000 - 1) == 1
    assert count(start_ms + 5 * 60_000) == 0
    assert count(start_ms - 1) == 0
