"""The body of `POST /v1/events`: an object, an array or NDJSON, split into raw events, checked as in the stream."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from persona_stream.kafka.writer import Record
from persona_stream.serving.problem import ProblemError
from persona_stream.serving.schemas import MAX_EVENTS, Rejected
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import check_skew, parse_event

NDJSON_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-lines"})
MAX_VALUES = 1_000_000
"""A body of 16 MiB can hold eight million values, which would take a second and half a gigabyte to split."""
_CHECKED_AT_ONCE = 500
"""Events between two chances for other requests: some two milliseconds."""
_NOT_JSON = frozenset({"bad_json", "bad_encoding"})

_array = msgspec.json.Decoder(Annotated[list[msgspec.Raw], Meta(max_length=MAX_EVENTS)])
_one = msgspec.json.Decoder(msgspec.Raw)


class Checked(Struct):
    """Events that can be published, as sent, and those that can't."""

    records: list[Record]
    rejected: list[Rejected]


async def checked_events(body: bytes, content_type: str, max_future_skew_ms: int) -> Checked:
    """Split and check a body. Raises ProblemError `bad-json` or `too-many-events`.

    Other requests are served in between: ten thousand events take some tens of milliseconds.
    """
    raws = split_events(body, ndjson=content_type in NDJSON_TYPES)
    # Not the stream's rule, which goes by Kafka's timestamp, but what that timestamp is about to be.
    now_ms = time.time_ns() // 1_000_000
    checked = Checked([], [])
    for start in range(0, len(raws), _CHECKED_AT_ONCE):
        if start:
            await asyncio.sleep(0)
        _check(raws[start : start + _CHECKED_AT_ONCE], start, now_ms, max_future_skew_ms, checked)
    rejected = checked.rejected
    if rejected and len(rejected) == len(raws) and all(one.code in _NOT_JSON for one in rejected):
        raise ProblemError("bad-json", rejected[0].detail)
    return checked


def split_events(body: bytes, *, ndjson: bool) -> list[bytes]:
    """The raw events of a body, in order; blank lines of NDJSON don't count.

    Without `ndjson` a body is NDJSON if its first line is a whole JSON value with more behind it.
    Raises ProblemError.
    """
    text = body.strip()
    if not text:
        raise ProblemError("bad-json", "The body is empty; send an event, an array of events or one event a line.")
    if ndjson:
        return _lines(text)
    if text.startswith(b"["):
        return _elements(text)
    try:
        _one.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        if not _is_whole(text.partition(b"\n")[0]):
            raise ProblemError("bad-json", str(error)) from None
        return _lines(text)
    return [text]


def _check(raws: Sequence[bytes], first: int, now_ms: int, max_future_skew_ms: int, checked: Checked) -> None:
    records, rejected = checked.records, checked.rejected
    for index, raw in enumerate(raws, first):
        try:
            event = parse_event(raw)
            check_skew(int(event.ts), now_ms, max_future_skew_ms)
        except EventError as error:
            rejected.append(Rejected(index, error.reason, error.message))
        else:
            records.append(Record(event.user.encode(), raw))


def _elements(text: bytes) -> list[bytes]:
    if text.count(b",") > MAX_VALUES:
        raise ProblemError("too-large", f"The body holds more than {MAX_VALUES} values; send it in smaller parts.")
    try:
        return [bytes(raw) for raw in _array.decode(text)]
    except msgspec.ValidationError:
        raise _too_many() from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProblemError("bad-json", str(error)) from None


def _lines(text: bytes) -> list[bytes]:
    # Twice as many, for a blank line after each.
    if text.count(b"\n") >= 2 * MAX_EVENTS:
        raise _too_many()
    lines = list(_not_blank(text))
    if len(lines) > MAX_EVENTS:
        raise _too_many()
    return lines


def _not_blank(text: bytes) -> Iterator[bytes]:
    return filter(None, (line.strip() for line in text.split(b"\n")))


def _is_whole(line: bytes) -> bool:
    try:
        _one.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _too_many() -> ProblemError:
    return ProblemError("too-many-events", f"A request takes at most {MAX_EVENTS} events; send them in several.")
