"""Table `users`: what each user did. Key: user id; written from the user's own partition of `events.v1`.

The fold counts an event in windows, keeps the latest visits in event-time order, cuts sessions by event time, keeps the
lists that were shown, and remembers event ids so that a producer's retry changes nothing.

The same events leave the same state in any order of arrival within the allowed lateness. Of each thing that is bounded,
the latest by event time are kept, ties by content; what may still change (an event may come that is older by the
lateness) does not count against a bound.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from functools import cached_property, partial
from operator import itemgetter

import msgspec
from msgspec import Struct, field
from xxhash import xxh3_64_intdigest

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.events import KIND_INDEX, OTHER, Event
from tables.attribution import Attribution
from tables.counters import LONGS_BYTES, PANES_BYTES, SKETCH_BYTE, add, decoded
from tables.sketches import NAME_HASHES, note
from tables.visits import KIND_BITS, ItemCodes, RecentVisits, Visit, latest_distinct, touches_by_item

SEEN_KEPT = 64
"""Of event ids at least as many are kept, and all that a retry within the allowed lateness may repeat."""
SEEN_MOST = 4096
VISITS_KEPT = 512
SESSIONS_KEPT = 8
PENDING_KEPT = 8
"""How much of each is kept a user: state stays within some twenty kilobytes whatever a user does."""

SEGMENT_CHARS = 64
"""A longer one is no segment: it would be kept with every item that the user touches."""

_RECENT, _TOUCHES, _HASHES = "recent", "touches", "visit_hashes"

_IMPRESSION = KIND_INDEX["impression"]
_PURCHASE = KIND_INDEX["purchase"]
HASH_MASK = (1 << 63) - 1
"""A msgpack integer in Python is signed: the top bit of a hash is dropped."""

Impression = tuple[int, str, list[str]]
"""(event time in ms, decision or event id, items shown in order)"""


class Rules(Struct, frozen=True):
    """The settings that the fold depends on: the same for live processing and every replay."""

    session_gap_ms: int
    attribution: Attribution
    segment_field: str
    lateness_ms: int


class Counted(Struct, frozen=True, gc=False):
    """What the tables count of an event."""

    kind: int
    ts_ms: int
    value_milli: int
    """The event's value in thousandths, 0 without one."""
    segment: str
    """The user's segment as the event tells it, empty where it tells none or one longer than SEGMENT_CHARS."""


class UserState(Struct, array_like=True, dict=True):
    """All that is held of one user. What is derived (`known_ids`, `touches`, ...) is no part of it at rest."""

    applied: int = -1
    """Highest offset of the source partition that was applied: a record at or below it changes nothing."""
    longs: bytearray = field(default_factory=lambda: bytearray(LONGS_BYTES))
    panes: bytearray = field(default_factory=lambda: bytearray(PANES_BYTES))
    seen: list[tuple[int, int]] = []
    """(event time in ms, hash of event id), oldest first: the dedupe window."""
    visits: list[Visit] = []
    """The latest VISITS_KEPT interactions with items, oldest first."""
    sessions: list[list[int]] = []
    """[start ms, last ms, events], oldest first: the latest SESSIONS_KEPT that are over for good, and later ones."""
    sessions_before: int = 0
    """How many older sessions there were."""
    pending: list[Impression] = []
    """The latest impressions that a click may still answer, oldest first."""
    segment: str = ""
    segment_ts_ms: int = 0
    slots: list[str] = []
    """Of each in `pending` its slot, if that has a window of its own, else ""; none has: empty."""

    @cached_property
    def known_ids(self) -> set[int]:
        """The hashes in `seen`."""
        return {digest for _, digest in self.seen}

    @cached_property
    def touches(self) -> dict[str, list[int]]:
        """Item -> touches in `visits`, oldest first. Kept beside a state while it is in memory, once asked."""
        return touches_by_item(self.visits)

    @cached_property
    def visit_hashes(self) -> "array[int]":
        """Of each of `visits` the hash of its item, uint64. Kept as `touches` is."""
        return array("Q", [NAME_HASHES[item] for _, item, _ in self.visits])

    def recent_visits(self, codes: ItemCodes) -> RecentVisits:
        """The latest visits by the numbers of their items."""
        held: RecentVisits | None = self.__dict__.get(_RECENT)
        if held is None or held.numbered_by is not codes:
            held = self.__dict__[_RECENT] = RecentVisits(self.visits, codes)
        return held

    def touches_of(self, items: Sequence[str]) -> dict[str, list[int]]:
        """The touches of some items, of those that have any: whoever has just read a state needs no more."""
        wanted = set(items)
        return touches_by_item([visit for visit in self.visits if visit[1] in wanted])


_decode = msgspec.msgpack.Decoder(UserState).decode


codec = Codec(new=UserState, encode=msgspec.msgpack.Encoder().encode, decode=partial(decoded, _decode))


def admit(state: UserState, event: Event, ts_ms: int, offset: int, rules: Rules) -> str:
    """`new` if the event is to be applied; `redelivered` or `duplicate` if it must change nothing."""
    if offset <= state.applied:
        return "redelivered"
    state.applied = offset
    return "new" if _first_time(state, event.id, ts_ms, rules.lateness_ms) else "duplicate"


def counted(event: Event, ts_ms: int, rules: Rules) -> Counted:
    """What the tables count of an event."""
    kind = KIND_INDEX.get(event.type, OTHER)
    value_milli = round(event.value * 1000) if event.value else 0
    segment = event.context.get(rules.segment_field) if event.context else None
    if not isinstance(segment, str) or len(segment) > SEGMENT_CHARS:
        segment = ""
    return Counted(kind, ts_ms, value_milli, segment)


def apply_event(state: UserState, event: Event, made: Counted, rules: Rules) -> None:
    """Fold one admitted event into its user's state."""
    kind, ts_ms, segment = made.kind, made.ts_ms, made.segment
    add(state.panes, state.longs, kind, ts_ms, made.value_milli)
    _extend_sessions(state, ts_ms, rules)
    if segment and (ts_ms, segment) > (state.segment_ts_ms, state.segment):
        state.segment, state.segment_ts_ms = segment, ts_ms
    if kind == _IMPRESSION:
        _remember_impression(state, event, ts_ms, rules.attribution)
    elif event.item is not None:
        digest = NAME_HASHES[event.item]
        note(state.longs, SKETCH_BYTE, digest)
        _remember_visit(state, (ts_ms, event.item, kind), digest)


def open_session(state: UserState, as_of_ms: int, gap_ms: int) -> list[int]:
    """[start, last, events] of the session open at a time, zeros if there is none."""
    for session in reversed(state.sessions):
        if as_of_ms > session[1] + gap_ms:
            # Older ones ended earlier still.
            break
        if as_of_ms >= session[0] - gap_ms:
            return session
    return [0, 0, 0]


def recent_items(state: UserState, limit: int) -> list[str]:
    """The user's latest distinct items, newest first."""
    return latest_distinct(map(itemgetter(1), reversed(state.visits)), limit)


def latest_interest(state: UserState) -> str | None:
    """The item of the user's latest interaction, unless that was a purchase."""
    if not state.visits or state.visits[-1][2] == _PURCHASE:
        return None
    return state.visits[-1][1]


def shown_items(event: Event) -> list[str]:
    """The distinct items of an impression, in order."""
    return list(dict.fromkeys(event.items or [str(event.item)]))


def answered_impressions(state: UserState, event: Event, ts_ms: int, rules: Rules) -> Sequence[Impression]:
    """The impressions that a click (cart, purchase) answers, latest first: that of its decision, else those with the
    item that the rules say, each within the window of its slot."""
    attribution, slots = rules.attribution, state.slots or [""] * len(state.pending)
    found = [
        impression
        for impression, slot in zip(reversed(state.pending), reversed(slots), strict=True)
        if 0 <= ts_ms - impression[0] <= attribution.window_of(slot)
        and (event.decision_id == impression[1] or (event.decision_id is None and event.item in impression[2]))
    ]
    return found[:1] if event.decision_id is not None else attribution.touched(found)


def _first_time(state: UserState, event_id: str, ts_ms: int, lateness_ms: int) -> bool:
    digest = xxh3_64_intdigest(event_id.encode()) & HASH_MASK
    known = state.known_ids
    if digest in known:
        return False
    known.add(digest)
    seen, told = state.seen, (ts_ms, digest)
    if not seen or seen[-1] <= told:
        seen.append(told)
    else:
        insort(seen, told)
    if len(seen) > SEEN_KEPT:
        # What is older than the watermark by more than the lateness is late, whatever its id.
        needed_ms = seen[-1][0] - lateness_ms
        while len(seen) > SEEN_KEPT and (seen[0][0] < needed_ms or len(seen) > SEEN_MOST):
            known.discard(seen.pop(0)[1])
    return True


def _extend_sessions(state: UserState, ts_ms: int, rules: Rules) -> None:
    sessions, gap_ms = state.sessions, rules.session_gap_ms
    if sessions and sessions[-1][0] <= ts_ms <= sessions[-1][1] + gap_ms:
        newest = sessions[-1]
        newest[1] = max(newest[1], ts_ms)
        newest[2] += 1
    else:
        # Out of order or a new session: everything within the gap of the event becomes one session with it.
        first = bisect_left(sessions, ts_ms - gap_ms, key=_last_ms)
        end = first
        merged = [ts_ms, ts_ms, 1]
        while end < len(sessions) and sessions[end][0] <= ts_ms + gap_ms:
            start_ms, last_ms, events = sessions[end]
            merged = [min(merged[0], start_ms), max(merged[1], last_ms), merged[2] + events]
            end += 1
        sessions[first:end] = [merged]
    if len(sessions) > SESSIONS_KEPT:
        # The newest id is that of the user's latest event.
        over_ms = state.seen[-1][0] - rules.lateness_ms - gap_ms
        while len(sessions) > SESSIONS_KEPT and sessions[SESSIONS_KEPT][1] < over_ms:
            del sessions[0]
            state.sessions_before += 1


def _last_ms(session: list[int]) -> int:
    return session[1]


def _remember_visit(state: UserState, visit: Visit, digest: int) -> None:
    visits, derived, (ts_ms, item, kind) = state.visits, state.__dict__, visit
    # In order as nearly all come: with one look instead of a search.
    at = len(visits) if not visits or visits[-1] <= visit else bisect_right(visits, visit)
    recent, hashes, touches = derived.get(_RECENT), derived.get(_HASHES), derived.get(_TOUCHES)
    if recent is not None:
        recent.insert(ts_ms, item, kind, len(visits) - at)
    if hashes is not None:
        hashes.insert(at, digest)
    if touches is not None:
        insort(touches.setdefault(item, []), ts_ms << KIND_BITS | kind)
    visits.insert(at, visit)
    if len(visits) > VISITS_KEPT:
        _forget_oldest(visits.pop(0), hashes, touches)


def _forget_oldest(visit: Visit, hashes: "array[int] | None", touches: dict[str, list[int]] | None) -> None:
    """Let what is derived follow."""
    if hashes is not None:
        hashes.pop(0)
    if touches is not None:
        left = touches[visit[1]]
        left.pop(0)
        if not left:
            del touches[visit[1]]


def _remember_impression(state: UserState, event: Event, ts_ms: int, attribution: Attribution) -> None:
    made = ts_ms, event.decision_id or event.id, shown_items(event)
    if not attribution.slot_windows_ms and not state.slots:
        insort(state.pending, made)
        del state.pending[:-PENDING_KEPT]
        return
    # In one order with their slots: what is kept of both follows from the set of events.
    both = list(zip(state.pending, state.slots or [""] * len(state.pending), strict=True))
    slot = event.slot or ""
    insort(both, (made, slot if slot in attribution.slot_windows_ms else ""))
    del both[:-PENDING_KEPT]
    state.pending = [impression for impression, _ in both]
    slots = [slot for _, slot in both]
    state.slots = slots if any(slots) else []
