"""Table `items`: what happened to each item. Key: item id; written from the item's partition of `internal.item-events`.

Events of one item come from many users and so from many source partitions; each carries where it came from, and the
state remembers the highest offset applied of each.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, repeat

import msgspec
from msgspec import Struct, field
from xxhash import xxh3_64_intdigest

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.events import KIND_INDEX
from persona_stream.vocabulary.messages import ItemEvent
from tables.counters import LONGS_BYTES, PANES_BYTES, SKETCH_BYTE, add, check_blocks
from tables.covisits import NEIGHBOURS_KEPT, sample
from tables.sketches import note

VISITS_KEPT = 16
"""The latest visits kept an item with their neighbours: co-visits are counted among them, so they follow what users do
now."""
COVISITS_KEPT = VISITS_KEPT * NEIGHBOURS_KEPT
SEGMENT_DAYS = 7
SEGMENTS_KEPT = 16
"""An item that more segments touch keeps those of the smallest hashes: the same ones in any order of arrival."""
_DAY_MS = 86_400_000
_TIMES = "covisit_times"
_NOBODY: list[str] = []
_IMPRESSION = KIND_INDEX["impression"]


class ItemState(Struct, array_like=True, dict=True):
    """All that is held of one item. What is derived (`covisit_times`) is no part of it at rest."""

    applied: dict[int, int] = {}
    """Source partition -> highest source offset that was applied."""
    longs: bytearray = field(default_factory=lambda: bytearray(LONGS_BYTES))
    panes: bytearray = field(default_factory=lambda: bytearray(PANES_BYTES))
    visits: list[tuple[int, int, list[str]]] = []
    """(event time in ms, hash of the user, neighbours), oldest first: the latest VISITS_KEPT that have neighbours."""
    segments: dict[str, list[int]] = {}
    """Segment -> ring of SEGMENT_DAYS pairs (day index, events of that day)."""

    @cached_property
    def covisit_times(self) -> dict[str, int]:
        """How often each item is among the latest co-visits. Kept beside a state while it is in memory, once asked."""
        # A dict proper: adding to a Counter calls Python for each item that is new to it.
        return dict(Counter(covisit_items(self)))


_encode = msgspec.msgpack.Encoder().encode


def _canonical(state: ItemState) -> bytes:
    # Dicts are in the order of arrival, which is no part of the value: equal values have equal bytes.
    if len(state.applied) > 1:
        state.applied = dict(sorted(state.applied.items()))
    if len(state.segments) > 1:
        state.segments = dict(sorted(state.segments.items()))
    return _encode(state)


_decode = msgspec.msgpack.Decoder(ItemState).decode


def _checked(raw: bytes) -> ItemState:
    state = _decode(raw)
    check_blocks(state.panes, state.longs)
    return state


codec = Codec(new=ItemState, encode=_canonical, decode=_checked)


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


def covisit_items(state: ItemState) -> list[str]:
    """The items of the latest co-visits, at most COVISITS_KEPT, oldest visit first."""
    return list(chain.from_iterable([neighbours for _, _, neighbours in state.visits]))


def covisit_count(state: ItemState, recent: Iterable[str]) -> int:
    """How many of an item's latest co-visits were with one of a user's recent items.

    >>> covisit_count(ItemState(visits=[(0, 1, ["a", "b"]), (9, 2, ["a"])]), ["a", "c"])
    2
    """
    return sum(map(state.covisit_times.get, recent, repeat(0)))


def segment_count(ring: list[int], as_of_ms: int) -> int:
    """Events of a segment in the SEGMENT_DAYS days that end with the day of `as_of_ms`."""
    today = as_of_ms // _DAY_MS
    return sum(ring[at + 1] for at in range(0, len(ring), 2) if today - SEGMENT_DAYS < ring[at] <= today)


def _add_neighbours(state: ItemState, event: ItemEvent) -> None:
    visits, near = state.visits, event.neighbours
    times: dict[str, int] | None = state.__dict__.get(_TIMES)
    at = bisect_left(visits, (event.ts_ms, event.visitor))
    if at < len(visits) and visits[at][:2] == (event.ts_ms, event.visitor):
        before = visits[at][2]
        near = sample({*before, *near}, event.ts_ms)
        visits[at] = (event.ts_ms, event.visitor, near)
    elif at or len(visits) < VISITS_KEPT:
        visits.insert(at, (event.ts_ms, event.visitor, near))
        before = visits.pop(0)[2] if len(visits) > VISITS_KEPT else _NOBODY
    else:
        return
    if times is not None:
        _replace(times, before, near)


def _replace(times: dict[str, int], before: Sequence[str], after: Sequence[str]) -> None:
    for item in after:
        times[item] = times.get(item, 0) + 1
    for item in before:
        left = times[item] - 1
        if left:
            times[item] = left
        else:
            # Else it would grow with every item that was ever near.
            del times[item]


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
