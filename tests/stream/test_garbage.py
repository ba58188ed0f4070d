"""State is looked at once; what a slice left in cycles is released."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from persona_stream.stream.garbage import let_state_stay, settle

STATE = 30_000


class _Cycle:
    def __init__(self) -> None:
        self.myself = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    let_state_stay()
    yield
    gc.set_threshold(*before)


def test_what_stays_is_old_after_a_slice_and_its_cycles_are_gone() -> None:
    gc.collect()
    cycle = weakref.ref(_Cycle())
    state = [[number] for number in range(STATE)]
    settle()
    assert cycle() is None
    old = {id(one) for one in gc.get_objects(generation=2)}
    assert all(id(one) in old for one in state)


def test_a_small_slice_is_not_worth_a_look() -> None:
    gc.collect()
    cycle = weakref.ref(_Cycle())
    settle()
    assert cycle() is not None


def test_the_old_are_left_alone_however_much_comes() -> None:
    gc.collect()
    full_collections = gc.get_stats()[2]["collections"]
    state = []
    for _ in range(40):
        state.append([[number] for number in range(STATE)])
        settle()
    assert gc.get_stats()[2]["collections"] == full_collections
