"""Table `items`: what happened to each item. Key: item id; written from the item's partition of `internal.item-events`.

Events of one item come from many users and so from many source partitions; each carries where it came from, and the
state remembers the highest offset applied of each.
"""

from bisect import bisect_left, bisect_right

import msgspec
from msgspec import Struct, field

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.events import KIND_INDEX
from persona_stream.vocabulary.messages import ItemEvent
from tables.counters import LONGS_BYTES, PANES_BYTES, add

COVISITS_KEPT = 64
"""The latest co-visits kept an item: neighbours are counted among them, so they follow what users do now."""
SEGMENT_DAYS = 7
SEGMENTS_KEPT = 16
_DAY_MS = 86_400_000
_IMPRESSION = KIND_INDEX["impression"]


class ItemState(Struct, array_like=True):
    """All that is held of one item."""

    applied: dict[int, int] = {}
    """Source partition -> highest source offset that was applied."""
    longs: bytearray = field(default_factory=lambda: bytearray(LONGS_BYTES))
    panes: bytearray = field(default_factory=lambda: bytearray(PANES_BYTES))
    covisit_ts_ms: list[int] = []
    covisit_items: list[str] = []
    """The latest COVISITS_KEPT: when, and with which item the user was just before. Oldest first, ties by item."""
    segments: dict[str, list[int]] = {}
    """Segment -> ring of SEGMENT_DAYS pairs (day index, events of that day)."""


codec = Codec(new=ItemState, encode=msgspec.msgpack.Encoder().encode, decode=msgspec.msgpack.Decoder(ItemState).decode)


def apply_item_event(state: ItemState, event: ItemEvent) -> bool:
    """Fold one re-keyed event. False if it had been applied before."""
    if event.source_offset <= state.applied.get(event.source_partition, -1):
        return False
    state.applied[event.source_partition] = event.source_offset
    if event.kind < 0:
        return True
    add(state.panes, state.longs, event.kind, event.ts_ms, event.value_milli)
    if event.kind != _IMPRESSION:
        for neighbour in event.recent_items:
            if neighbour != event.item:
                _add_covisit(state, neighbour, event.ts_ms)
        if event.segment:
            _count_segment(state.segments, event.segment, event.ts_ms // _DAY_MS)
    return True


def covisit_count(state: ItemState, recent: list[str]) -> int:
    """How many of the item's latest co-visits were with one of the user's recent items."""
    return sum(map(state.covisit_items.count, recent))


def segment_count(ring: list[int], as_of_ms: int) -> int:
    """Events of a segment in the SEGMENT_DAYS days that end with the day of `as_of_ms`."""
    today = as_of_ms // _DAY_MS
    return sum(ring[at + 1] for at in range(0, len(ring), 2) if today - SEGMENT_DAYS < ring[at] <= today)


def _add_covisit(state: ItemState, neighbour: str, ts_ms: int) -> None:
    times, neighbours = state.covisit_ts_ms, state.covisit_items
    first, end = bisect_left(times, ts_ms), bisect_right(times, ts_ms)
    at = bisect_right(neighbours, neighbour, first, end)
    times.insert(at, ts_ms)
    neighbours.insert(at, neighbour)
    if len(times) > COVISITS_KEPT:
        del times[0], neighbours[0]


def _count_segment(segments: dict[str, list[int]], segment: str, day: int) -> None:
    ring = segments.get(segment)
    if ring is None:
        if len(segments) >= SEGMENTS_KEPT:
            # The segment least recently seen makes room; ties by name keep replays equal.
            del segments[min(segments, key=lambda name: (max(segments[name][0::2]), name))]
        ring = segments[segment] = [0] * (2 * SEGMENT_DAYS)
    at = 2 * (day % SEGMENT_DAYS)
    if ring[at] < day:
        ring[at], ring[at + 1] = day, 0
    if ring[at] == day:
        ring[at + 1] += 1
