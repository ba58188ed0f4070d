"""The contract's events: what is taken, what is refused and why."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.broken import Broken, broken_records

from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import REASONS, check_skew, parse_event, parse_item, parse_profile, parse_ts
from persona_stream.vocabulary.topics import MAX_EVENT_BYTES

NOW_MS = 1_700_000_000_000
GOOD: dict[str, Any] = {"id": "e1", "type": "click", "user": "u1", "item": "i9", "ts": NOW_MS}


def _refusal(raw: bytes | None, parse: Any = parse_event) -> EventError:
    with pytest.raises(EventError) as refused:
        parse(raw)
    assert refused.value.reason in REASONS
    assert refused.value.message
    return refused.value


def _reason(parse: Any, raw: bytes) -> str:
    try:
        parse(raw)
    except EventError as error:
        return error.reason
    return ""


# The others are the agent's to find: they need the record's key and Kafka's timestamp.
OF_THE_VALUE = [
    broken for broken in broken_records(NOW_MS) if broken.reason not in {"missing_key", "key_mismatch", "future_ts"}
]


@pytest.mark.parametrize("broken", OF_THE_VALUE, ids=lambda broken: broken.kind)
def test_what_breaks_the_contract_is_refused_with_its_reason(broken: Broken) -> None:
    assert _refusal(broken.value).reason == broken.reason


def test_every_reason_is_met_by_a_record() -> None:
    assert {broken.reason for broken in broken_records(NOW_MS)} == set(REASONS)


@given(st.binary(max_size=200))
@example(b'"\xff"')
@example(b"[" * 100_000)
@example(b'{"a":' * 50_000)
def test_any_bytes_are_an_event_or_refused_never_an_error_of_another_kind(raw: bytes) -> None:
    for parse in (parse_event, parse_item, parse_profile):
        assert _reason(parse, raw) in {"", *REASONS}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*GOOD, "items", "value", "context", "session", "slot", "decision_id"]), JSON)
def test_any_json_in_any_field_is_taken_or_refused(field: str, value: Any) -> None:
    try:
        raw = orjson.dumps({**GOOD, field: value})
    except orjson.JSONEncodeError:
        return
    reason = _reason(parse_event, raw)
    assert reason in {"", *REASONS}
    if not reason:
        event = parse_event(raw)
        assert 0 < int(event.ts) <= 4_102_444_800_000
        assert event.user
        assert "\0" not in event.user


@given(
    st.integers(1, 4_070_000_000),
    st.integers(0, 999),
    st.integers(-14 * 60, 14 * 60),
)
def test_a_text_and_its_milliseconds_are_the_same_time(seconds: int, ms: int, zone_minutes: int) -> None:
    epoch_ms = seconds * 1000 + ms
    utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=epoch_ms)
    zoned = utc.astimezone(timezone(timedelta(minutes=zone_minutes)))
    assert parse_ts(zoned.isoformat()) == parse_ts(epoch_ms) == epoch_ms
    assert parse_ts(utc.isoformat().replace("+00:00", "Z")) == epoch_ms


@pytest.mark.parametrize("ts", [0, -1, 1_700_000_000_000_000, "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59"])
def test_a_time_that_no_clock_meant_is_refused(ts: int | str) -> None:
    with pytest.raises(EventError, match="ts"):
        parse_ts(ts)


def test_the_skew_is_measured_from_kafkas_own_timestamp() -> None:
    check_skew(NOW_MS + 300_000, NOW_MS, 300_000)
    with pytest.raises(EventError, match="after the record reached Kafka") as refused:
        check_skew(NOW_MS + 300_001, NOW_MS, 300_000)
    assert refused.value.reason == "future_ts"


def test_a_record_of_just_1_mib_is_taken() -> None:
    padding = MAX_EVENT_BYTES - len(orjson.dumps({**GOOD, "context": {"a": ""}}))
    raw = orjson.dumps({**GOOD, "context": {"a": "x" * padding}})
    assert len(raw) == MAX_EVENT_BYTES
    assert parse_event(raw).id == "e1"
    assert _refusal(raw[:-3] + b'x"}}').reason == "too_large"


@pytest.mark.parametrize("field", ["user", "item"])
def test_no_id_holds_a_nul(field: str) -> None:
    assert _refusal(orjson.dumps({**GOOD, field: "\0progress"})).reason == "bad_field"
    shown = {**GOOD, "type": "impression", "items": ["i1", "\0i"]}
    assert _refusal(orjson.dumps(shown)).reason == "bad_field"
    assert parse_event(orjson.dumps({**GOOD, "context": {"a": "\0"}})).user == "u1"


@pytest.mark.parametrize(
    ("parse", "key", "fields"), [(parse_item, "id", "attributes"), (parse_profile, "user", "traits")]
)
def test_what_the_tables_cannot_keep_is_refused(parse: Any, key: str, fields: str) -> None:
    def made(value: Any) -> bytes:
        return b'{"%s": "k", "ts": 5, "%s": {"n": %s}}' % (key.encode(), fields.encode(), value)

    assert _refusal(made(b"123456789012345678901234567890"), parse).reason == "bad_field"
    assert _refusal(made(b"[" * 40 + b"]" * 40), parse).reason == "bad_field"
    assert _refusal(b'{"%s": "\\u0000", "ts": 5}' % key.encode(), parse).reason == "bad_field"
    parse(made(b"-9223372036854775807"))
    parse(made(b"[" * 20 + b"]" * 20))
