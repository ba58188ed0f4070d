"""What a key had at a position, and where in a changelog a process may stand."""

from typing import Any

from aiokafka import ConsumerRecord
from support.agents import SPECS

from persona_stream.audit.changelog_view import FollowedPartition, Span
from persona_stream.stream.partition import PROGRESS_KEY, Partition, Progress


def _progress(offset: int) -> bytes:
    part: Partition[Any] = Partition(SPECS["users"].codec)
    part.progress = Progress(offset=offset)
    return part.take_changes()[-1].value or b""


def _record(offset: int, key: bytes, value: bytes | None) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord("t", 0, offset, 0, 0, key, value, None, 0, 0, ())


def _followed() -> FollowedPartition:
    """Read whole: a=1 and progress 10; then a=2, b=1, progress 20; a gone, then b=2 of a slice not whole."""
    part = FollowedPartition()
    part.apply(_record(0, b"a", b"1"))
    part.apply(_record(1, PROGRESS_KEY, _progress(10)))
    part.is_whole = True
    rest = [(b"a", b"2"), (b"b", b"1"), (PROGRESS_KEY, _progress(20)), (b"a", None), (b"b", b"2")]
    for offset, (key, value) in enumerate(rest, start=2):
        part.apply(_record(offset, key, value))
    return part


def test_a_value_is_known_at_every_position() -> None:
    part = _followed()
    assert [part.value_at(b"a", position) for position in range(2, 8)] == [b"1", b"2", b"2", b"2", None, None]
    assert [part.value_at(b"b", position) for position in range(2, 8)] == [None, None, b"1", b"1", b"1", b"2"]
    assert set(part) == {b"a", b"b"}


def test_a_worker_stands_where_the_progress_record_ends_and_the_next_has_not_come() -> None:
    part = _followed()
    assert part.span_of_source(10) == Span(2, 5)
    assert part.span_of_source(20) == Span(5, 7)
    assert part.span_of_source(15) is None
    assert part.span_of_source(21) is None
    assert part.has_passed(20)
    assert not part.has_passed(21)
    assert part.values_in(b"a", Span(5, 7)) == [b"2", None]
    assert part.changed_in(Span(2, 4)) == [b"a", b"b"]


def test_what_was_before_the_first_reading_ended_is_not_known() -> None:
    part = FollowedPartition()
    part.apply(_record(0, b"a", b"1"))
    part.apply(_record(1, b"a", b"2"))
    part.apply(_record(2, PROGRESS_KEY, _progress(10)))
    part.apply(_record(3, b"a", b"3"))
    part.is_whole = True
    assert part.remembered_from == 3
    assert [part.value_at(b"a", position) for position in (3, 4)] == [b"2", b"3"]


def test_nothing_folded_stands_at_the_beginning() -> None:
    assert FollowedPartition().span_of_source(-1) == Span(0, 0)


def test_what_is_forgotten_leaves_the_rest_as_it_was() -> None:
    part = _followed()
    part.forget_before(5)
    assert [part.value_at(b"a", position) for position in (5, 6)] == [b"2", None]
    assert part.remembered_from == 5
    part.forget_before(7)
    assert list(part) == [b"b"]
