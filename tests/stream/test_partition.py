"""A partition's changes, as its changelog tells them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logs import LogRecord
from support.runs import digest_and_keys, restored
from support.tally import COUNT

from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import PROGRESS_KEY, Partition, Progress, decode_progress, entry_digest
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
            part = restored(COUNT, log)
    log += part.take_changes()
    again = restored(COUNT, log)
    assert {key: again.get(key) for key in again} == model
    assert len(again) == len(model)
    assert not again.changed


DISTURBANCES = st.sampled_from(["flush", "reread", "crash", "compact", "old"])


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(["put", "change", "get", "delete"]), DISTURBANCES),
            st.sampled_from("ab"),
            st.integers(0, 9),
        ),
        min_size=10,
        max_size=60,
    )
)
def test_the_digest_is_that_of_all_entries_whatever_happens(steps: list[tuple[str, str, int]]) -> None:
    part: Partition[int] = Partition(COUNT)
    log: list[Record] = []
    for step, key, value in steps:
        if step == "put":
            part.put(key, value)
        elif step in {"change", "get", "delete"}:
            getattr(part, step)(key)
        else:
            changes = part.take_changes()
            # A crash leaves the progress record out, and any number of changes before it.
            log += changes[: value % len(changes)] if step == "crash" else changes
            log = _disturbed(log, step)
            part = part if step == "flush" else restored(COUNT, log)
            if step in {"flush", "reread", "compact"}:
                _assert_digest_is_right(log)
    log += part.take_changes()
    _assert_digest_is_right(log)


def _disturbed(log: list[Record], step: str) -> list[Record]:
    if step == "compact":
        last = {record.key: at for at, record in enumerate(log)}
        return [log[at] for at in sorted(last.values()) if log[at].value is not None]
    if step == "old":
        return [*log[:-1], Record(PROGRESS_KEY, _without_digest(log[-1].value))]
    return log


def _without_digest(progress: bytes | None) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.decode(progress or b"")[:6])


def _assert_digest_is_right(log: list[Record]) -> None:
    progress = decode_progress(log[-1].value or b"")
    assert (progress.digest, progress.keys) == digest_and_keys(log)


def test_a_progress_record_of_before_digests_is_read_and_made_good() -> None:
    part: Partition[int] = Partition(COUNT)
    part.put("a", 1)
    part.progress.offset = 7
    log = part.take_changes()
    log[-1].value = _without_digest(log[-1].value)
    part = restored(COUNT, log)
    assert (part.progress.offset, part.progress.digest) == (7, 0)
    log += part.take_changes()
    _assert_digest_is_right(log)
    assert part.progress.keys == 1


def test_values_written_before_a_crash_count_as_they_are_when_their_slice_comes_again() -> None:
    part: Partition[int] = Partition(COUNT)
    for key in "ab":
        part.put(key, 1)
    log = part.take_changes()
    for key in "ab":
        part.put(key, 2)
    log += part.take_changes()[:1]
    part = restored(COUNT, log)
    for key in "ab":
        part.put(key, 2)
    log += part.take_changes()
    _assert_digest_is_right(log)


def test_a_deletion_that_compaction_dropped_before_progress_spoke_of_it_is_noticed() -> None:
    part: Partition[int] = Partition(COUNT)
    for key in "ab":
        part.put(key, 1)
    values, progress = part.take_changes()[:1], decode_progress(part.take_changes()[-1].value or b"")
    # The tombstone of "b" was written, its progress was not; a cleaner has since removed both records of "b".
    log = [*values, Record(PROGRESS_KEY, msgspec.msgpack.encode(progress))]
    log += restored(COUNT, log).take_changes()
    _assert_digest_is_right(log)


@pytest.mark.parametrize(
    "other", [(b"ab", b"c"), (b"a", b"cb"), (b"b", b"ca"), (b"", b"abc"), (b"abc", b""), (b"a", b"")]
)
def test_entries_that_differ_have_digests_that_differ(other: tuple[bytes, bytes]) -> None:
    assert entry_digest(*other) != entry_digest(b"a", b"bc")
    assert 0 <= entry_digest(*other) < 2**64


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
