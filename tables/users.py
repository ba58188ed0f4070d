"""Table `users`: what each user did. Key: user id; written from the user's own partition of `events.v1`.

The fold counts an event in windows, keeps the latest history in event-time order, cuts sessions by event time, joins
clicks with the impressions they answer, and remembers event ids so that a producer's retry changes nothing.
"""

from bisect import insort

import msgspec
from msgspec import Struct, field
from xxhash import xxh3_64_intdigest

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.events import KIND_INDEX, OTHER, POSITIVE_KINDS, Event
from tables.counters import LONGS_BYTES, PANES_BYTES, add
from tables.features import LAST_INTEREST, LAST_PURCHASE, PURCHASES, TIMES, TOUCH_HEAD, TOUCHES_KEPT

SEEN_KEPT = 64
HISTORY_KEPT = 50
ITEMS_KEPT = 256
SESSIONS_KEPT = 8
PENDING_KEPT = 8
"""How much of each is kept a user: state stays within a few kilobytes whatever a user does."""

SEGMENT_CHARS = 64
"""A longer one is no segment: it would be kept with every item that the user touches."""

_IMPRESSION = KIND_INDEX["impression"]
_CLICK = KIND_INDEX["click"]
_PURCHASE = KIND_INDEX["purchase"]
# A msgpack integer in Python is signed: the top bit is dropped.
_HASH_MASK = (1 << 63) - 1

Visit = tuple[int, str, int]
"""(event time in ms, item, kind)"""
Impression = tuple[int, str, list[str]]
"""(event time in ms, decision or event id, items shown in order)"""


class Rules(Struct, frozen=True):
    """The settings that the fold depends on: the same for live processing and every replay."""

    session_gap_ms: int
    attribution_window_ms: int
    segment_field: str


class UserState(Struct, array_like=True):
    """All that is held of one user."""

    applied: int = -1
    """Highest offset of the source partition that was applied: a record at or below it changes nothing."""
    longs: bytearray = field(default_factory=lambda: bytearray(LONGS_BYTES))
    panes: bytearray = field(default_factory=lambda: bytearray(PANES_BYTES))
    seen: dict[int, int] = {}
    """Hash of event id -> event time: the dedupe window, the latest SEEN_KEPT by event time."""
    history: list[Visit] = []
    """The latest interactions with items, oldest first."""
    touched: dict[str, list[int]] = {}
    """Item -> [times, purchases, last time without buying (ms), last purchase (ms), latest TOUCHES_KEPT times (ms)]."""
    sessions: list[list[int]] = []
    """[start ms, last ms, events], oldest first, the latest SESSIONS_KEPT."""
    sessions_before: int = 0
    """How many older sessions there were."""
    pending: list[Impression] = []
    """The latest impressions that a click may still answer, oldest first."""
    attributed: int = 0
    """Clicks that were joined with an impression."""
    segment: str = ""
    segment_ts_ms: int = 0


codec = Codec(new=UserState, encode=msgspec.msgpack.Encoder().encode, decode=msgspec.msgpack.Decoder(UserState).decode)


def admit(state: UserState, event: Event, ts_ms: int, offset: int) -> str:
    """`new` if the event is to be applied; `redelivered` or `duplicate` if it must change nothing."""
    if offset <= state.applied:
        return "redelivered"
    state.applied = offset
    return "new" if _first_time(state.seen, event.id, ts_ms) else "duplicate"


def apply_event(state: UserState, event: Event, ts_ms: int, rules: Rules) -> None:
    """Fold one admitted event into its user's state."""
    kind = KIND_INDEX.get(event.type, OTHER)
    if event.type in POSITIVE_KINDS and answered_impression(state, event, ts_ms, rules) is not None:
        state.attributed += 1
    add(state.panes, state.longs, kind, ts_ms, value_milli(event))
    _extend_sessions(state, ts_ms, rules.session_gap_ms)
    segment = segment_of(event, rules)
    if segment and ts_ms >= state.segment_ts_ms:
        state.segment, state.segment_ts_ms = segment, ts_ms
    if kind == _IMPRESSION:
        _remember_impression(state, event, ts_ms)
    elif event.item is not None:
        _remember_visit(state, event.item, kind, ts_ms)


def value_milli(event: Event) -> int:
    """The event's value in thousandths, 0 without one."""
    return round(event.value * 1000) if event.value else 0


def segment_of(event: Event, rules: Rules) -> str:
    """The user's segment as the event tells it, empty where it tells none or one longer than SEGMENT_CHARS."""
    segment = event.context.get(rules.segment_field) if event.context else None
    return segment if isinstance(segment, str) and len(segment) <= SEGMENT_CHARS else ""


def open_session(state: UserState, as_of_ms: int, gap_ms: int) -> list[int]:
    """[start, last, events] of the session open at a time, zeros if there is none."""
    for session in reversed(state.sessions):
        if session[0] - gap_ms <= as_of_ms <= session[1] + gap_ms:
            return session
    return [0, 0, 0]


def recent_items(state: UserState, limit: int) -> list[str]:
    """The user's latest distinct items, newest first."""
    found: list[str] = []
    for _, item, _ in reversed(state.history):
        if item not in found:
            found.append(item)
            if len(found) == limit:
                break
    return found


def latest_interest(state: UserState) -> str | None:
    """The item of the user's latest interaction, unless that was a purchase."""
    if not state.history or state.history[-1][2] == _PURCHASE:
        return None
    return state.history[-1][1]


def answered_impression(state: UserState, event: Event, ts_ms: int, rules: Rules) -> Impression | None:
    """The impression that a click (cart, purchase) answers: that of its decision, else the latest with the item."""
    for impression in reversed(state.pending):
        shown_ms, shown_id, items = impression
        if not 0 <= ts_ms - shown_ms <= rules.attribution_window_ms:
            continue
        if event.decision_id == shown_id or (event.decision_id is None and event.item in items):
            return impression
    return None


def _first_time(seen: dict[int, int], event_id: str, ts_ms: int) -> bool:
    digest = xxh3_64_intdigest(event_id.encode()) & _HASH_MASK
    if digest in seen:
        return False
    seen[digest] = ts_ms
    if len(seen) > SEEN_KEPT:
        oldest_ms = min(seen.values())
        del seen[min(known for known, at_ms in seen.items() if at_ms == oldest_ms)]
    return True


def _extend_sessions(state: UserState, ts_ms: int, gap_ms: int) -> None:
    sessions = state.sessions
    if sessions and sessions[-1][0] <= ts_ms <= sessions[-1][1] + gap_ms:
        newest = sessions[-1]
        newest[1] = max(newest[1], ts_ms)
        newest[2] += 1
        return
    # Out of order or a new session: everything within the gap of the event becomes one session with it.
    merged = [ts_ms, ts_ms, 1]
    apart: list[list[int]] = []
    for session in sessions:
        if session[0] - gap_ms <= ts_ms <= session[1] + gap_ms:
            merged = [min(merged[0], session[0]), max(merged[1], session[1]), merged[2] + session[2]]
        else:
            apart.append(session)
    insort(apart, merged)
    dropped = max(0, len(apart) - SESSIONS_KEPT)
    state.sessions_before += dropped
    state.sessions = apart[dropped:]


def _remember_visit(state: UserState, item: str, kind: int, ts_ms: int) -> None:
    insort(state.history, (ts_ms, item, kind))
    if len(state.history) > HISTORY_KEPT:
        del state.history[0]
    touches = state.touched.get(item)
    if touches is None:
        touches = state.touched[item] = [0] * TOUCH_HEAD
    touches[TIMES] += 1
    bought = kind == _PURCHASE
    touches[PURCHASES] += bought
    latest = LAST_PURCHASE if bought else LAST_INTEREST
    touches[latest] = max(touches[latest], ts_ms)
    insort(touches, ts_ms, lo=TOUCH_HEAD)
    if len(touches) > TOUCH_HEAD + TOUCHES_KEPT:
        del touches[TOUCH_HEAD]
    if len(state.touched) > ITEMS_KEPT:
        _forget_oldest(state.touched)


def _forget_oldest(touched: dict[str, list[int]]) -> None:
    oldest_ms = min([touches[-1] for touches in touched.values()])
    del touched[min(item for item, touches in touched.items() if touches[-1] == oldest_ms)]


def _remember_impression(state: UserState, event: Event, ts_ms: int) -> None:
    shown = event.items or [str(event.item)]
    insort(state.pending, (ts_ms, event.decision_id or event.id, list(dict.fromkeys(shown))))
    del state.pending[:-PENDING_KEPT]
