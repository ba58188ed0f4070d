"""What stands in Redis: the names of keys and fields, and the values that tables give them. See docs/redis.md.

A hash is made of parts, one a table: each has its own fields and its own version, and neither touches the other's.
Whoever wants to know what Redis must hold (the mirror that writes it, an audit that checks it) asks here:

    expected = expected_hashes("user", {"users": {"u1": raw}, "profiles": {}}, session_gap_ms)
    differing_fields(expected["u1"], await redis.hgetall(key_of("persona", "user", "u1")))     # [] if it is so
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from xxhash import xxh3_64_hexdigest

from persona_stream.vocabulary.events import KINDS
from tables import catalogue, items, profiles, users
from tables.counters import FIRST_TS, LAST_TS, TOTALS, Longs, stack_longs, stack_panes
from tables.features.blocks import CounterBlock
from tables.features.catalogue import shipped
from tables.features.plan import Plan

Kind = Literal["user", "item"]
Row = list[str]
"""The values of one part's fields, in the order of `Part.fields`."""

RECENT_ITEMS_SHOWN = 20
_COUNTS = ("last_event_ms", "first_event_ms", *(f"total_{kind}" for kind in KINDS))
# Fields are a contract with other services: they are those of the shipped catalogue, whatever this system ranks by.
_PLAN = Plan(shipped().features)
_USER_FEATURES = _PLAN.user_counter_names
# Co-visits are with a user's latest items: an item alone has none.
_ITEM_COLUMNS = [at for at, name in enumerate(_PLAN.item_names) if name not in _PLAN.covisit_names]
_ITEM_FEATURES = tuple(_PLAN.item_names[at] for at in _ITEM_COLUMNS)
_MEASURED = frozenset({*_USER_FEATURES, *_ITEM_FEATURES})
_ROUNDING = 1e-6
_json = msgspec.json.Encoder(order="deterministic").encode


def _without(state: type[Struct], *unused: str) -> Callable[[bytes], Any]:
    """A decoder of an array-like state that makes no objects of the fields named: they stay bytes."""
    fields = [(f.name, msgspec.Raw if f.name in unused else f.type) for f in msgspec.structs.fields(state)]
    return msgspec.msgpack.Decoder(msgspec.defstruct(state.__name__, fields, array_like=True)).decode


# The larger part of a state, and none of what is shown: decoding it would take most of the time.
_decode_user = _without(users.UserState, "seen", "pending")
_decode_item = _without(items.ItemState, "applied", "visits", "segments")


class Part(Struct, frozen=True):
    """What one table puts into a hash; `rows` makes the values of many of its (encoded) values at once."""

    table: str
    kind: Kind
    fields: tuple[str, ...]
    rows: Callable[[Sequence[bytes], int], list[Row]]
    """(encoded values, session gap in ms) -> a row a value."""

    @property
    def version_field(self) -> str:
        """The field that holds the part's version: see `Version`."""
        return f"{self.table}_version"


class Version(Struct, frozen=True, order=True):
    """How new a part is: one that is greater replaces it, one that is not never does.

    >>> str(Version(0, 17)), Version.read("1:3") > Version(0, 17)
    ('0:17', True)
    """

    turn: int
    """How often the table's live generation had changed: a rollback is newer than what it undoes."""
    offset: int
    """The offset in the changelog of that generation."""

    def __str__(self) -> str:
        return f"{self.turn}:{self.offset}"

    @classmethod
    def read(cls, text: str) -> "Version":
        """From what `str` made of one. Raises ValueError."""
        turn, _, offset = text.partition(":")
        return cls(int(turn), int(offset))


def key_of(namespace: str, kind: Kind, name: str) -> str:
    """The key of a user's or an item's hash.

    >>> key_of("persona", "user", "u1")
    'persona:user:u1'
    """
    return f"{namespace}:{kind}:{name}"


def _user_rows(raws: Sequence[bytes], gap_ms: int) -> list[Row]:
    states = list(map(_decode_user, raws))
    longs, panes = stack_longs([state.longs for state in states]), stack_panes([state.panes for state in states])
    as_of_ms = longs[:, LAST_TS]
    sessions = [users.open_session(state, at, gap_ms) for state, at in zip(states, as_of_ms.tolist(), strict=True)]
    users_now = CounterBlock(panes, longs, as_of_ms, session=np.array(sessions))
    features = _PLAN.of_user_counters(users_now).tolist()
    return [
        [
            *counts,
            *map(repr, measured),
            str(state.sessions_before + len(state.sessions)),
            state.segment,
            _json(users.recent_items(state, RECENT_ITEMS_SHOWN)).decode(),
        ]
        for state, counts, measured in zip(states, _counts(longs), features, strict=True)
    ]


def _item_rows(raws: Sequence[bytes], gap_ms: int) -> list[Row]:
    states = list(map(_decode_item, raws))
    longs, panes = stack_longs([state.longs for state in states]), stack_panes([state.panes for state in states])
    features = _PLAN.item(CounterBlock(panes, longs, longs[:, LAST_TS]))[:, _ITEM_COLUMNS].tolist()
    return [[*counts, *map(repr, measured)] for counts, measured in zip(_counts(longs), features, strict=True)]


def _counts(longs: Longs) -> Iterable[Row]:
    """The values of _COUNTS."""
    for row in longs.tolist():
        yield [str(row[LAST_TS]), str(row[FIRST_TS]), *map(str, row[TOTALS:])]


def _catalogue_rows(raws: Sequence[bytes], gap_ms: int) -> list[Row]:
    entries = map(catalogue.codec.decode, raws)
    return [
        [
            _json(entry.attributes).decode(),
            "deleted" if entry.deleted else "hidden" if entry.hidden else "active",
            "" if entry.expires_ms is None else str(entry.expires_ms),
        ]
        for entry in entries
    ]


def _profile_rows(raws: Sequence[bytes], gap_ms: int) -> list[Row]:
    return [[_json(profiles.codec.decode(raw).traits).decode()] for raw in raws]


PARTS = (
    Part("users", "user", (*_COUNTS, *_USER_FEATURES, "sessions", "segment", "recent_items"), _user_rows),
    Part("profiles", "user", ("traits",), _profile_rows),
    Part("items", "item", (*_COUNTS, *_ITEM_FEATURES), _item_rows),
    Part("catalogue", "item", ("attributes", "status", "expires_ms"), _catalogue_rows),
)
PART_OF = {part.table: part for part in PARTS}
LAYOUT = xxh3_64_hexdigest(repr([(part.table, part.kind, part.fields) for part in PARTS]).encode())[:8]
"""Names these very keys and fields: a release that has others writes everything again."""
VERSION_FIELDS = frozenset(part.version_field for part in PARTS)


def parts_of(kind: Kind) -> tuple[Part, ...]:
    """The parts of one kind of hash."""
    return tuple(part for part in PARTS if part.kind == kind)


def expected_hashes(
    kind: Kind, tables: Mapping[str, Mapping[str, bytes]], session_gap_ms: int
) -> dict[str, dict[str, str]]:
    """What the hashes of users or items must hold, by id: every field but the versions, which depend on the log.

    `tables`: by the names of the parts' tables, what each holds (id -> value as its changelog has it). An id that no
    table holds is in no hash, so must not be in Redis with any field but versions. One that a table holds may be
    missing in Redis as a whole: a hash that was not written for `redis_ttl_ms` is gone.
    """
    found: dict[str, dict[str, str]] = {}
    for part in parts_of(kind):
        held = tables.get(part.table, {})
        for name, row in zip(held, part.rows(list(held.values()), session_gap_ms) if held else (), strict=True):
            found.setdefault(name, {}).update(zip(part.fields, row, strict=True))
    return found


def differing_fields(expected: Mapping[str, str], held: Mapping[str, str]) -> list[str]:
    """The fields in which a hash is not what it must be, in order; versions are not looked at.

    >>> differing_fields({"segment": "a", "sessions": "1"}, {"segment": "b", "sessions": "1", "users_version": "0:1"})
    ['segment']
    """
    names = (expected.keys() | held.keys()) - VERSION_FIELDS
    return sorted(name for name in names if not _same(name, expected.get(name), held.get(name)))


def _same(name: str, expected: str | None, held: str | None) -> bool:
    if expected == held or expected is None or held is None or name not in _MEASURED:
        return expected == held
    try:
        # Another machine may round the last bit of a logarithm otherwise.
        return math.isclose(float(expected), float(held), rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    except ValueError:
        return False
