"""Records that break the events contract, more than twenty kinds, each with the reason it must be put aside for."""

from typing import Any

import orjson
from msgspec import Struct

from persona_stream.vocabulary.topics import MAX_EVENT_BYTES

USER = "u1"
HOUR_MS = 3_600_000


class Broken(Struct, frozen=True):
    """One broken record."""

    kind: str
    reason: str
    value: bytes | None
    key: bytes | None = USER.encode()


def broken_records(now_ms: int) -> list[Broken]:
    """One record of each kind; `now_ms` is about when Kafka gets them."""
    good = {"id": "b1", "type": "click", "user": USER, "item": "i1", "ts": now_ms}

    def with_(**fields: Any) -> bytes:
        return orjson.dumps({**good, **fields})

    def without(*names: str) -> bytes:
        return orjson.dumps({name: value for name, value in good.items() if name not in names})

    return [
        Broken("no value", "empty", None),
        Broken("larger than 1 MiB", "too_large", with_(context={"a": "x" * MAX_EVENT_BYTES})),
        Broken("not UTF-8", "bad_encoding", with_().replace(b'"b1"', b'"\xff"')),
        Broken("cut off", "bad_json", with_()[:-9]),
        Broken("two in one", "bad_json", with_() + with_()),
        Broken("an array", "bad_shape", b"[" + with_() + b"]"),
        Broken("no id", "missing_field", without("id")),
        Broken("no type", "missing_field", without("type")),
        Broken("no user", "missing_field", without("user")),
        Broken("no ts", "missing_field", without("ts")),
        Broken("a misspelt field", "unknown_field", with_(itm="i1")),
        Broken("an empty id", "bad_field", with_(id="")),
        Broken("a value in words", "bad_field", with_(value="twelve")),
        Broken("a value beyond all sums", "bad_field", with_(value=1e300)),
        Broken("a user that begins with NUL", "bad_field", with_(user="\0progress"), b"\0progress"),
        Broken("a ts in words", "bad_ts", with_(ts="yesterday")),
        Broken("a ts in microseconds", "bad_ts", with_(ts=now_ms * 1000)),
        Broken("a ts of the year 9999", "bad_ts", with_(ts="9999-12-31T23:59:59-23:59")),
        Broken("a clock ahead", "future_ts", with_(ts=now_ms + HOUR_MS)),
        Broken("a click on nothing", "missing_item", without("item")),
        Broken("an impression of nothing", "missing_item", with_(type="impression", item=None, items=[])),
        Broken("no key", "missing_key", with_(), None),
        Broken("another's key", "key_mismatch", with_(), b"u2"),
    ]
