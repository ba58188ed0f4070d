"""What rows of history are of: events, items or profiles, and how a row of columns becomes the JSON of the contract.

>>> EVENTS.json_of({"type": "click", "user": 7, "item": "i9", "ts": "2026-01-01T00:00:00Z", "value": "1.5"}, "log/1")
b'{"id":"3244d8c01441804215ab9f89aece7aba","type":"click","user":"7","ts":1767225600000,"item":"i9","value":1.5}'
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from xxhash import xxh3_128_hexdigest

from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import (
    CatalogueItem,
    Event,
    Profile,
    parse_event,
    parse_item,
    parse_profile,
    parse_ts,
)

Cells = Mapping[str, object]
"""Field -> what stands in the row: a text, a number, or lists and dicts; None or an empty text: nothing."""

_WHOLE = re.compile(r"-?\d+")
_TIMES = frozenset({"ts", "expires_at"})
_NESTED = frozenset({"items", "context", "attributes", "traits"})
_NUMBERS = frozenset({"value"})


class HistoryKind(Struct, frozen=True):
    """One kind of rows."""

    name: str
    struct: type[Struct]
    """Its fields are the columns."""
    parse: Callable[[bytes | None], Any]
    """Decodes and checks one row's JSON; raises EventError."""
    is_named_by_content: bool = False
    """Whether a row without `id` is given one."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that a row may have, in the contract's order."""
        return self.struct.__struct_fields__

    @property
    def required(self) -> list[str]:
        """The columns that there must be."""
        must = [field.name for field in msgspec.structs.fields(self.struct) if field.required]
        return [name for name in must if not (self.is_named_by_content and name == "id")]

    def json_of(self, cells: Cells, place: str) -> bytes:
        """The JSON of a row of columns; other columns are passed over.

        A row without `id` is named by its content and its `place`, so by the same name whenever it is read. Raises
        EventError where a cell can't be what its column says.
        """
        row = {name: _value(name, cell) for name in self.fields if (cell := cells.get(name)) not in (None, "")}
        try:
            if self.is_named_by_content and "id" not in row:
                content = msgspec.json.encode(row, order="deterministic")
                row = {"id": xxh3_128_hexdigest(place.encode() + b"\n" + content)} | row
            return msgspec.json.encode(row)
        except UnicodeEncodeError as error:
            raise EventError("bad_encoding", f"not UTF-8: {error.reason}") from None


EVENTS = HistoryKind("events", Event, parse_event, is_named_by_content=True)
ITEMS = HistoryKind("items", CatalogueItem, parse_item)
PROFILES = HistoryKind("profiles", Profile, parse_profile)


def renamed(raw: bytes, field_of: Mapping[str, str]) -> bytes:
    """A line of JSON whose fields are named otherwise; `field_of`: its name -> the contract's. Raises EventError."""
    try:
        told = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The contract's own parser has the words for it.
        return raw
    return msgspec.json.encode({field_of.get(name, name): value for name, value in told.items()})


def _value(name: str, cell: object) -> object:
    if name in _NESTED:
        return _nested(name, cell) if isinstance(cell, str) else cell
    if name in _TIMES:
        return _time_ms(cell)
    if name in _NUMBERS:
        return _number(name, cell)
    # A table of numbers with gaps has them as floats.
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _nested(name: str, text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise EventError("bad_field", f"`{name}` is no JSON: {error}") from None


def _time_ms(cell: object) -> int:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, str) and _WHOLE.fullmatch(cell.strip()):
        cell = int(cell)
    return parse_ts(cell if isinstance(cell, int) else str(cell))


def _number(name: str, cell: object) -> float:
    try:
        return float(str(cell))
    except ValueError:
        raise EventError("bad_field", f"`{name}` is no number: {str(cell)[:40]!r}") from None
