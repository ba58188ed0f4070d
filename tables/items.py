"""Table `items`: what happened to each item. Key: item id; written from the item's partition of `internal.item-events`.

Events of one item come from many users and so from many source partitions; each carries where it came from, and the
state remembers the highest offset applied of each.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from struct import Struct as Packing

import msgspec
import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.events import KIND_INDEX
from persona_stream.vocabulary.messages import ItemEvent
from tables.counters import LONGS_BYTES, PANES_BYTES, SKETCH_BYTE, Times, add, decoded
from tables.covisits import NEIGHBOURS_KEPT, RECENT_ITEMS, sample
from tables.sketches import note

VISITS_KEPT = 16
"""The latest visits kept an item with their neighbours: co-visits are counted among them, so they follow what users do
now."""
COVISITS_KEPT = VISITS_KEPT * NEIGHBOURS_KEPT
_PLACE = Packing("=qq")
_HEAD, _VISIT = 2, 2 + NEIGHBOURS_KEPT
_HEAD_BYTES, _VISIT_BYTES = 8 * _HEAD, 8 * _VISIT
_VISITS_BYTES = VISITS_KEPT * _VISIT_BYTES
_RECENT_BYTES = 8 * RECENT_ITEMS
_NONE = {0}
SEGMENT_DAYS = 7
SEGMENTS_KEPT = 16
"""An item that more segments touch keeps those of the smallest hashes: the same ones in any order of arrival."""
_DAY_MS = 86_400_000
_IMPRESSION = KIND_INDEX["impression"]

Hashes = NDArray[np.uint64]


class ItemState(Struct, array_like=True):
    """All that is held of one item."""

    applied: dict[int, int] = {}
    """Source partition -> highest source offset that was applied."""
    longs: bytearray = field(default_factory=lambda: bytearray(LONGS_BYTES))
    panes: bytearray = field(default_factory=lambda: bytearray(PANES_BYTES))
    visits: bytearray = field(default_factory=bytearray)
    """The latest VISITS_KEPT that have neighbours, oldest first. Each is event time in ms and hash of the user (int64),
    and NEIGHBOURS_KEPT hashes of items (uint64), zeros where there are fewer."""
    segments: dict[str, list[int]] = {}
    """Segment -> ring of SEGMENT_DAYS pairs (day index, events of that day)."""


_encode = msgspec.msgpack.Encoder().encode


def _canonical(state: ItemState) -> bytes:
    # Dicts are in the order of arrival, which is no part of the value: equal values have equal bytes.
    if len(state.applied) > 1:
        state.applied = dict(sorted(state.applied.items()))
    if len(state.segments) > 1:
        state.segments = dict(sorted(state.segments.items()))
    return _encode(state)


_decode = msgspec.msgpack.Decoder(ItemState).decode


codec = Codec(new=ItemState, encode=_canonical, decode=partial(decoded, _decode))


def apply_item_event(state: ItemState, event: ItemEvent) -> bool:
    """Fold one re-keyed event. False if it had been applied before."""
    if event.neighbours:
        # Told again, neighbours change nothing.
        _add_neighbours(state, event)
    if event.kind < 0 and event.label < 0:
        return True
    if event.source_offset <= state.applied.get(event.source_partition, -1):
        return False
    state.applied[event.source_partition] = event.source_offset
    if event.kind < 0:
        return True
    add(state.panes, state.longs, event.kind, event.ts_ms, event.value_milli)
    if event.visitor and event.kind != _IMPRESSION:
        note(state.longs, SKETCH_BYTE, event.visitor)
    if event.segment and event.kind != _IMPRESSION:
        _count_segment(state.segments, event.segment, event.ts_ms // _DAY_MS)
    return True


def covisits_of(visits: bytes | bytearray) -> Hashes:
    """The neighbours of one item's visits, or of several items', uint64 `[visits, NEIGHBOURS_KEPT]`: 0 is none."""
    return np.frombuffer(visits, dtype=np.uint64).reshape(-1, _VISIT)[:, _HEAD:]


def are_among(near: Hashes, wanted: Iterable[Hashes | np.uint64]) -> NDArray[np.bool_]:
    """Which neighbours are among a few wanted, the same for all rows or one a row (`[n, 1]`): bool like `near`."""
    found = np.zeros(near.shape, dtype=np.bool_)
    for one in wanted:
        found |= near == one
    return found


def covisit_counts(visits: Sequence[bytes], recent: Sequence[bytes]) -> Times:
    """How many of each item's latest co-visits were with one of a user's few recent items, by hashes: int64 `[n]`.

    >>> from tables.covisits import packed
    >>> state = ItemState()
    >>> for ts_ms, near in [(0, ["a", "b"]), (9, ["a"])]:
    ...     _ = apply_item_event(state, ItemEvent("x", 0, ts_ms, 0, 0, ts_ms, "", neighbours=packed(near)))
    >>> covisit_counts([bytes(state.visits)], [packed(["a", "c"])]).tolist()
    [2]
    """
    row = np.repeat(np.arange(len(visits)), [len(held) // _VISIT_BYTES for held in visits])
    wanted = np.frombuffer(b"".join([of_user.ljust(_RECENT_BYTES, b"\0") for of_user in recent]), dtype=np.uint64)
    near = covisits_of(b"".join(visits))
    found = are_among(near, [nth[row, None] for nth in wanted.reshape(-1, RECENT_ITEMS).T])
    found &= near != 0
    counts: Times = np.bincount(row, weights=found.sum(axis=1), minlength=len(visits)).astype(np.int64)
    return counts


def segment_count(ring: list[int], as_of_ms: int) -> int:
    """Events of a segment in the SEGMENT_DAYS days that end with the day of `as_of_ms`."""
    today = as_of_ms // _DAY_MS
    return sum(ring[at + 1] for at in range(0, len(ring), 2) if today - SEGMENT_DAYS < ring[at] <= today)


def _add_neighbours(state: ItemState, event: ItemEvent) -> None:
    visits, near, place = state.visits, event.neighbours, (event.ts_ms, event.visitor)
    at = len(visits)
    # From the end: nearly all come in order.
    while at and _PLACE.unpack_from(visits, at - _VISIT_BYTES) >= place:
        at -= _VISIT_BYTES
    behind = at
    if at < len(visits) and _PLACE.unpack_from(visits, at) == place:
        behind = at + _VISIT_BYTES
        known = {*memoryview(visits)[at + _HEAD_BYTES : behind].cast("Q"), *memoryview(near).cast("Q")}
        near = sample(known - _NONE, event.ts_ms)
    elif not at and len(visits) == _VISITS_BYTES:
        return
    visits[at:behind] = _PLACE.pack(*place) + near.ljust(_VISIT_BYTES - _HEAD_BYTES, b"\0")
    if len(visits) > _VISITS_BYTES:
        del visits[:_VISIT_BYTES]


def _count_segment(segments: dict[str, list[int]], segment: str, day: int) -> None:
    ring = segments.get(segment)
    if ring is None:
        if len(segments) >= SEGMENTS_KEPT:
            leaves = max([segment, *segments], key=_hash)
            if leaves == segment:
                return
            del segments[leaves]
        ring = segments[segment] = [0] * (2 * SEGMENT_DAYS)
    at = 2 * (day % SEGMENT_DAYS)
    if ring[at] < day:
        ring[at], ring[at + 1] = day, 0
    if ring[at] == day:
        ring[at + 1] += 1


def _hash(segment: str) -> tuple[int, str]:
    return xxh3_64_intdigest(segment.encode()), segment
