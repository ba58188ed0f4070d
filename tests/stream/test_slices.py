"""Which offsets may be committed, for any slices applied in any order; what a slice keeps from an offset on."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from support.logs import LogRecord

from persona_stream.stream.slices import CommitTracker, Slice

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=12)


def _slices(sizes: Sequence[int], holes: int = 1) -> list[Slice]:
    parts, offset = [], 0
    for size in sizes:
        records = [LogRecord(offset + holes * at, b"") for at in range(size)]
        parts.append(Slice("t", 0, records))
        offset = records[-1].offset + holes
    return parts


@given(SIZES, st.data())
def test_no_offset_is_committed_before_all_in_front_of_it_are_applied(sizes: list[int], data: st.DataObject) -> None:
    parts, tracker = _slices(sizes, holes=3), CommitTracker()
    for part in parts:
        tracker.delivered(part)
    for part in data.draw(st.permutations(parts)):
        part.applied = True
        in_front = [part for at, part in enumerate(parts) if all(before.applied for before in parts[: at + 1])]
        for _ in range(2):
            # Asked again, since the commit that asked before may have failed.
            assert tracker.committable() == (in_front[-1].last_offset + 1 if in_front else None)


@given(SIZES, st.data())
def test_the_last_commit_is_behind_the_last_slice(sizes: list[int], data: st.DataObject) -> None:
    parts, tracker = _slices(sizes), CommitTracker()
    for part in parts:
        tracker.delivered(part)
        if data.draw(st.booleans()):
            part.applied = True
            tracker.committable()
    for part in parts:
        part.applied = True
    assert tracker.committable() == parts[-1].last_offset + 1


@given(st.integers(1, 9), st.integers(-1, 12))
def test_what_is_at_or_after_an_offset(size: int, offset: int) -> None:
    (part,) = _slices([size])
    rest = part.starting_at(offset)
    assert [record.offset for record in rest or ()] == [at for at in range(size) if at >= offset]
    assert len(part) == size
