"""Ids of decisions: opaque to callers, and found by the time they were made."""

import uuid

from persona_stream.vocabulary.ids import made_ms, new_id

NOW_MS = 1_790_000_000_123


def test_an_id_tells_when_it_was_made_and_is_a_uuid() -> None:
    made = new_id(NOW_MS)
    assert made_ms(made) == NOW_MS
    assert uuid.UUID(made).version == 7
    assert uuid.UUID(made).variant == uuid.RFC_4122
    assert len(made) == 32


def test_ids_of_one_millisecond_differ_and_later_ones_sort_behind() -> None:
    same = {new_id(NOW_MS) for _ in range(1000)}
    assert len(same) == 1000
    assert max(same) < new_id(NOW_MS + 1)


def test_other_ids_tell_no_time() -> None:
    for other in (uuid.uuid4().hex, "d1", "", "x" * 32):
        assert made_ms(other) is None
