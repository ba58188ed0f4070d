"""A partition's changes, as its changelog tells them."""

from hypothesis import given
from hypothesis import strategies as st
from support.logs import LogRecord
from support.tally import COUNT

from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import PROGRESS_KEY, Partition, Progress, decode_progress
from persona_stream.stream.slices import Slice

STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "flush", "reread"]), st.sampled_from("abcd"), st.integers(0, 99)),
    max_size=60,
)


@given(STEPS)
def test_the_changelog_tells_the_partition_whatever_happens(steps: list[tuple[str, str, int]]) -> None:
    part: Partition[int] = Partition(COUNT)
    model: dict[str, int] = {}
    log: list[Record] = []
    for step, key, value in steps:
        if step == "put":
            part.put(key, value)
            model[key] = value
        elif step == "delete":
            part.delete(key)
            model.pop(key, None)
        elif step == "flush":
            log += part.take_changes()
        else:
            log += part.take_changes()
            part = _read(log)
    log += part.take_changes()
    again = _read(log)
    assert {key: again.get(key) for key in again} == model
    assert len(again) == len(model)
    assert not again.changed


def _read(log: list[Record]) -> Partition[int]:
    part: Partition[int] = Partition(COUNT)
    for record in log:
        part.restore(record.key, record.value)
    return part


def test_changes_are_told_once_each_key_once_and_progress_last() -> None:
    part: Partition[int] = Partition(COUNT)
    for value in range(3):
        part.put("b", value)
    part.put("a", 7)
    part.delete("c")
    records = part.take_changes()
    assert [record.key for record in records] == [b"a", b"b", b"c", PROGRESS_KEY]
    assert [record.value for record in records[:3]] == [COUNT.encode(7), COUNT.encode(2), None]
    assert [record.key for record in part.take_changes()] == [PROGRESS_KEY]


def test_values_read_back_are_decoded_when_used() -> None:
    part: Partition[int] = Partition(COUNT)
    part.restore(b"a", COUNT.encode(5))
    assert "a" in part
    part.changed.add("a")
    assert part.take_changes()[0].value == COUNT.encode(5)
    assert part.get("a") == 5
    assert part.get("b") is None
    assert part.change("a") == 5
    assert part.changed == {"a"}


def test_progress_counts_records_once() -> None:
    progress = Progress()
    first = Slice("t", 0, [LogRecord(offset, b"", timestamp=offset) for offset in (3, 4, 9)])
    again = Slice("t", 0, [LogRecord(offset, b"", timestamp=offset) for offset in (4, 9, 12)])
    progress.advance(first)
    progress.advance(first)
    assert (progress.offset, progress.events, progress.appended_ms) == (9, 3, 9)
    progress.advance(again)
    assert (progress.offset, progress.events, progress.appended_ms) == (12, 4, 12)
    part: Partition[int] = Partition(COUNT)
    part.progress = progress
    assert decode_progress(part.take_changes()[0].value or b"") == progress
