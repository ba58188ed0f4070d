"""The events of the contract: what backend services publish, decoded and checked.

One decoder serves the stream, the HTTP route and the command line, so all three refuse the same things with
the same words.

    >>> parse_event(b'{"id": "e1", "type": "click", "user": "u1", "item": "i9", "ts": "2026-01-01T00:00:00Z"}').ts
    1767225600000
    >>> parse_event(b'{"id": "e1", "type": "click", "user": "u1", "ts": 1767225600000}')
    Traceback (most recent call last):
    ...
    persona_stream.vocabulary.errors.EventError: a click needs `item`
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.topics import MAX_EVENT_BYTES

REASONS = (
    "empty",
    "too_large",
    "bad_encoding",
    "bad_json",
    "bad_shape",
    "missing_field",
    "unknown_field",
    "bad_field",
    "bad_ts",
    "future_ts",
    "missing_item",
    "missing_key",
    "key_mismatch",
)
"""Why a record can't be used: the labels of dead letters and of their metric."""

KINDS = ("impression", "view", "click", "add_to_cart", "purchase", "other")
"""Event types that are counted apart; every other type is counted as `other`."""
KIND_INDEX = {kind: index for index, kind in enumerate(KINDS)}
OTHER = KIND_INDEX["other"]
GRADES = {"click": 1, "add_to_cart": 2, "purchase": 3}
POSITIVE_KINDS = frozenset(GRADES)
"""Outcomes that a ranking wants more of."""
RATING = "rating"
"""An outcome, too, if it is of 4 stars or more."""
_LIKED = 4.0
"""Of five stars."""
_NEED_ITEM = frozenset({"view", "click", "add_to_cart", "purchase", "rating"})

T = TypeVar("T")

Id = Annotated[str, Meta(min_length=1, max_length=256)]
EventType = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,63}$")]
# Sums of thousandths stay within 64 bits for nine million events at the bound.
Value = Annotated[float, Meta(ge=-1e9, le=1e9)]
# Later than this and milliseconds were mistaken for a finer unit; earlier than the epoch has no window, and the epoch
# itself is what an unset clock says: in the tables, 0 stands for "never".
_LAST_TS_MS = 4_102_444_800_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The one way to write a NUL in JSON.
_NUL = b"\\u0000"
_DEEPEST = 32
_INT_BITS = 63


class Event(Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Something a user did. After `parse_event`, `ts` is epoch milliseconds."""

    id: Id
    type: EventType
    user: Id
    ts: int | str
    item: Id | None = None
    items: Annotated[list[Id], Meta(max_length=1000)] | None = None
    session: str | None = None
    value: Value | None = None
    decision_id: str | None = None
    slot: str | None = None
    context: dict[str, Any] | None = None


class CatalogueItem(Struct, kw_only=True, forbid_unknown_fields=True):
    """One item of the catalogue: its attributes and whether it may be shown."""

    id: Id
    ts: int | str
    attributes: dict[str, Any] = {}
    status: Literal["active", "hidden"] = "active"
    expires_at: int | str | None = None


class Profile(Struct, kw_only=True, forbid_unknown_fields=True):
    """What is known of a user from elsewhere (CRM, sign-up form)."""

    user: Id
    ts: int | str
    traits: dict[str, Any] = {}


_event_decoder = msgspec.json.Decoder(Event)
_item_decoder = msgspec.json.Decoder(CatalogueItem)
_profile_decoder = msgspec.json.Decoder(Profile)


def parse_event(raw: bytes | None) -> Event:
    """Decode and check one event. Raises EventError with one of REASONS."""
    event = _decode(_event_decoder, raw)
    ts = event.ts
    event.ts = ts if type(ts) is int and 0 < ts <= _LAST_TS_MS else parse_ts(ts)
    if raw is not None and _NUL in raw:
        _refuse_nul(event.user, event.item or "", *(event.items or ()))
    if event.type == "impression":
        if not event.items and not event.item:
            raise EventError("missing_item", "an impression needs `items`, the ids shown in order")
    elif event.item is None and event.type in _NEED_ITEM:
        raise EventError("missing_item", f"a {event.type} needs `item`")
    return event


def grade_of(event: Event) -> int:
    """How much an outcome tells of an item: a click 1, a cart 2, a purchase 3, a rating of 4 or more 2; others 0.

    >>> grade_of(Event(id="e1", type="rating", user="u1", ts=1, item="i1", value=4.5))
    2
    """
    if event.type == RATING:
        return 2 if event.value is not None and event.value >= _LIKED else 0
    return GRADES.get(event.type, 0)


def parse_item(raw: bytes | None) -> CatalogueItem:
    """Decode and check one catalogue item. Raises EventError with one of REASONS."""
    item = _decode(_item_decoder, raw)
    item.ts = parse_ts(item.ts)
    _refuse_nul(item.id)
    _check_storable(item.attributes, "$.attributes")
    if item.expires_at is not None:
        item.expires_at = parse_ts(item.expires_at)
    return item


def parse_profile(raw: bytes | None) -> Profile:
    """Decode and check one profile. Raises EventError with one of REASONS."""
    profile = _decode(_profile_decoder, raw)
    profile.ts = parse_ts(profile.ts)
    _refuse_nul(profile.user)
    _check_storable(profile.traits, "$.traits")
    return profile


def parse_ts(ts: int | str) -> int:
    """Epoch milliseconds of an RFC 3339 text or of epoch milliseconds. Raises EventError("bad_ts")."""
    if isinstance(ts, str):
        try:
            moment = datetime.fromisoformat(ts)
        except ValueError:
            raise EventError("bad_ts", f"`ts` is neither RFC 3339 nor epoch milliseconds: {ts[:40]!r}") from None
        if moment.tzinfo is None:
            raise EventError("bad_ts", f"`ts` has no time zone: {ts[:40]!r}; end it with Z or an offset")
        # Integer arithmetic: a float of seconds loses milliseconds to rounding.
        delta = moment - _EPOCH
        ts = (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000
    if not 0 < ts <= _LAST_TS_MS:
        raise EventError("bad_ts", f"`ts` {ts} is outside 1970 to 2100 in epoch milliseconds; is the unit right?")
    return ts


def check_skew(ts_ms: int, appended_ms: int, max_future_skew_ms: int) -> None:
    """Refuse an event stamped later than Kafka got it, by more than the skew. Raises EventError("future_ts")."""
    if ts_ms > appended_ms + max_future_skew_ms:
        ahead_s = (ts_ms - appended_ms) / 1000
        raise EventError("future_ts", f"`ts` is {ahead_s:.0f} s after the record reached Kafka; is the clock right?")


def _refuse_nul(*ids: str) -> None:
    # A table keeps its own records under keys that begin with a NUL.
    if any("\0" in name for name in ids):
        raise EventError("bad_field", "an id holds a NUL character")


def _check_storable(value: object, path: str, depth: int = 1) -> None:
    """Refuse what JSON can say but the tables' MessagePack can't."""
    if depth > _DEEPEST:
        raise EventError("bad_field", f"nested deeper than {_DEEPEST} levels - at `{path[:80]}`")
    if isinstance(value, dict):
        for key, held in value.items():
            _check_storable(held, f"{path}.{key}", depth + 1)
    elif isinstance(value, list):
        for held in value:
            _check_storable(held, f"{path}[]", depth + 1)
    elif isinstance(value, int) and value.bit_length() > _INT_BITS:
        raise EventError("bad_field", f"an integer of more than {_INT_BITS} bits - at `{path[:80]}`")


def _decode(decoder: msgspec.json.Decoder[T], raw: bytes | None) -> T:
    if not raw:
        raise EventError("empty", "the record has no value")
    if len(raw) > MAX_EVENT_BYTES:
        raise EventError("too_large", f"the record has {len(raw)} bytes; at most {MAX_EVENT_BYTES} are taken")
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise EventError(_reason(str(error)), str(error)) from None
    except UnicodeDecodeError as error:
        raise EventError("bad_encoding", f"not UTF-8: {error.reason} at byte {error.start}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise EventError("bad_json", str(error)) from None


def _reason(message: str) -> str:
    if message.startswith("Object missing required field"):
        return "missing_field"
    if message.startswith("Object contains unknown field"):
        return "unknown_field"
    if message.startswith("Expected `object`") and " - at " not in message:
        return "bad_shape"
    return "bad_ts" if "`$.ts`" in message else "bad_field"
