"""Sketches of different names: order-free, and as exact as they say."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.sketches import NAME_HASHES, REGISTERS, estimates, note

STANDARD_ERROR = 1.04 / REGISTERS**0.5


def _sketch(names: list[str]) -> bytearray:
    block = bytearray(8 + REGISTERS)
    for name in names:
        note(block, 8, NAME_HASHES[name])
    assert not any(block[:8])
    return block[8:]


def _estimate(sketch: bytearray) -> float:
    return float(estimates(np.frombuffer(sketch, dtype=np.uint8)[None])[0])


@given(st.lists(st.text(max_size=3), max_size=80), st.randoms(use_true_random=False))
def test_names_in_any_order_and_again_leave_the_same_bytes(names: list[str], random_: random.Random) -> None:
    again = [*names, *random_.choices(names, k=20)] if names else []
    random_.shuffle(again)
    assert _sketch(names) == _sketch(again)


@given(st.sets(st.text(max_size=5)), st.sets(st.text(max_size=5)))
def test_two_sketches_merge_into_that_of_all(some: set[str], others: set[str]) -> None:
    merged = bytearray(map(max, _sketch(list(some)), _sketch(list(others))))
    assert merged == _sketch([*some, *others])


@pytest.mark.parametrize("count", [0, 1, 10, 100, 500, 700, 5_000, 100_000])
def test_an_estimate_is_off_by_no_more_than_it_says(count: int) -> None:
    sketches = [_sketch([f"{salt}/{number}" for number in range(count)]) for salt in range(8)]
    found = np.array([_estimate(sketch) for sketch in sketches])
    assert np.abs(found - count).max(initial=0) <= 4 * STANDARD_ERROR * count
    # Nor is it off in one direction: the mean of 8 is 3 times as exact.
    assert abs(found.mean() - count) <= 4 * STANDARD_ERROR * count / 8**0.5


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6))
def test_many_sketches_are_read_as_each_alone(counts: list[int]) -> None:
    sketches = [_sketch([f"n{number}" for number in range(count)]) for count in counts]
    together = estimates(np.frombuffer(b"".join(sketches), dtype=np.uint8).reshape(-1, REGISTERS))
    assert together.tolist() == [_estimate(sketch) for sketch in sketches]
