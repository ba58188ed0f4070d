"""The impressions agent: `internal.shown` -> table `impressions`, and examples of what was shown and chosen.

The first outcome of an item is an example at once: the learner need not wait. When the attribution window closes, the
whole list is one: rankers learn from all of it, the learner what was left alone. Time here is that of the user's
own events, in their order; rows, which come from other partitions at their own pace, do not move it.
"""

import heapq
from collections import deque
from weakref import WeakKeyDictionary

import msgspec
from msgspec.structs import replace

from agents.emissions import Emissions
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import KafkaRecord, Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.messages import (
    FROM_SHOWN,
    Example,
    Opened,
    Outcome,
    Shown,
    ShownRows,
    decode_shown,
    encode,
)
from persona_stream.vocabulary.topics import Topics
from tables.features.plan import attribution_of
from tables.impressions import (
    CLOSED_KEPT,
    NOT_CLOSED,
    NOT_OPENED,
    ShownList,
    add_outcome,
    add_rows,
    key_of,
    open_list,
)

_FROM_EVENTS = -1
"""Where Opened and Outcome come from: the partition of events of the same number."""
LISTS_PER_RECORD = 1 << 11
"""At most so many lists close at one record; more close at the next."""
_NUMBERS_PER_RECORD = 2 * LISTS_PER_RECORD
"""What a record gives rise to is numbered: first what was chosen, then, from LISTS_PER_RECORD on, whole lists."""

Due = list[tuple[int, str]]
"""A heap of (when it closes in event time, key)."""
Closed = deque[tuple[int, str]]
"""(offset that closed it, key), oldest first."""
Lists = Partition[ShownList]


class Impressions:
    """Folds slices of `internal.shown`. Which list is next to close follows from the table, and is found at need."""

    def __init__(self, settings: Settings) -> None:
        self._topics = Topics(settings.namespace)
        self._attribution = attribution_of(settings)
        self._patience_ms = settings.allowed_lateness_ms
        self._next: WeakKeyDictionary[Lists, tuple[Due, Closed]] = WeakKeyDictionary()

    def process(self, part: Slice, lists: Lists) -> Emissions:
        """Fold a slice into `lists`; returns the examples made."""
        out = Emissions(self._topics)
        progress = lists.progress
        due, closed = self._next_of(lists)
        for record in part:
            if record.offset <= progress.offset or record.value is None:
                continue
            told = _decoded(part, record, out)
            if told is None:
                continue
            made = _Numbered(part.partition, record.offset)
            if _is_redelivered(told, lists):
                out.outcomes["redelivered"] += 1
            else:
                if not isinstance(told, ShownRows):
                    progress.watermark_ms = max(progress.watermark_ms, told.ts_ms)
                out.outcomes[self._apply(told, record.offset, lists, due, made)] += 1
                for number, group in enumerate(told.others if isinstance(told, Outcome) else (), start=1):
                    self._apply(replace(told, group=group), record.offset, lists, due, made, number)
            self._close_due(record.offset, lists, due, closed, made)
            while closed and closed[0][0] + CLOSED_KEPT <= record.offset:
                lists.delete(closed.popleft()[1])
            for example in made.examples:
                out.emit(self._topics.examples, example.user, encode(example))
        progress.advance(part)
        return out

    def _apply(self, told: Shown, offset: int, lists: Lists, due: Due, made: "_Numbered", number: int = 0) -> str:
        """Fold one record, or the part of it about one more list, by its number; returns what became of it."""
        state = lists.change(key_of(told.user, told.group))
        if offset <= state.applied:
            return "redelivered"
        is_over = bool(state.group) and self._due_ms(state) < lists.progress.watermark_ms
        if state.closed_at != NOT_CLOSED or (is_over and isinstance(told, Outcome)):
            return "late"
        before_ms = self._due_ms(state) if state.group else None
        state.applied, state.user, state.group = offset, told.user, told.group
        if isinstance(told, Opened):
            open_list(state, told)
        elif isinstance(told, ShownRows):
            for item in add_rows(state, told):
                made.positive(state, item, told.items.index(item))
        elif add_outcome(state, told):
            made.positive(state, told.item, number)
        # Rows that were waited for may be the last.
        if self._due_ms(state) != before_ms or isinstance(told, ShownRows):
            heapq.heappush(due, (self._due_ms(state), state.key))
        return "applied"

    def _close_due(self, offset: int, lists: Lists, due: Due, closed: Closed, made: "_Numbered") -> None:
        while due and due[0][0] < lists.progress.watermark_ms and len(made.closed) < LISTS_PER_RECORD:
            due_ms, key = heapq.heappop(due)
            state = lists.get(key)
            if state is None or self._due_ms(state) != due_ms:
                continue
            if state.closed_at == offset:
                # It closed here before a crash, and was written: its number is taken.
                made.closed.add(key)
            elif state.closed_at == NOT_CLOSED and state.is_complete():
                state = lists.change(key)
                made.whole(state)
                made.closed.add(key)
                state.close(offset)
                closed.append((offset, key))

    def _due_ms(self, state: ShownList) -> int:
        return state.due_ms(self._attribution.window_of(state.slot), self._patience_ms)

    def _next_of(self, lists: Lists) -> tuple[Due, Closed]:
        found = self._next.get(lists)
        if found is None:
            held = [(key, state) for key in lists if (state := lists.get(key)) is not None]
            due = [
                (self._due_ms(state), key)
                for key, state in held
                if state.closed_at < 0 or state.closed_at > lists.progress.offset
            ]
            heapq.heapify(due)
            closed = deque(sorted((state.closed_at, key) for key, state in held if state.closed_at != NOT_CLOSED))
            found = self._next[lists] = due, closed
        return found


class _Numbered:
    """The examples that one record gave rise to, each with a number that a redelivery gives it again."""

    def __init__(self, partition: int, offset: int) -> None:
        self._source = FROM_SHOWN + partition
        self._first = offset * _NUMBERS_PER_RECORD
        self.examples: list[Example] = []
        self.closed: set[str] = set()
        """The lists that closed at the record: the next one has the next number."""

    def positive(self, state: ShownList, item: str, number: int) -> None:
        """What was chosen."""
        state.told.append(item)
        self._add(state, [item], "online", number)

    def whole(self, state: ShownList) -> None:
        """All that was shown, if it was."""
        items = state.in_order()
        if items and state.opened_ms != NOT_OPENED:
            self._add(state, items, "impression", LISTS_PER_RECORD + len(self.closed))

    def _add(self, state: ShownList, items: list[str], origin: str, number: int) -> None:
        places = {item: at for at, item in enumerate(state.items or state.rows)}
        self.examples.append(
            Example(
                group=state.group,
                user=state.user,
                ts_ms=state.rows_ms,
                feature_hash=state.feature_hash,
                items=items,
                features=b"".join([state.rows[item] for item in items]),
                labels=[state.grades.get(item, 0) for item in items],
                origin=origin,
                source_partition=self._source,
                source_offset=self._first + number,
                slot=state.slot,
                positions=[places.get(item, -1) for item in items],
                propensities=[state.propensities.get(item, 0.0) for item in items] if state.propensities else [],
                weights=[state.weights.get(item, 1.0) for item in items] if state.weights.keys() & items else [],
            )
        )


def _is_redelivered(told: Shown, lists: Lists) -> bool:
    """Whether it came before: after a crash of the agent that wrote it. Rows told twice before their list closes
    change nothing anyway, so those that a server wrote need no place of their own."""
    source = told.source_partition if isinstance(told, ShownRows) else _FROM_EVENTS
    if isinstance(told, ShownRows) and source < 0:
        return False
    seen = lists.progress.forwarded
    if told.source_offset <= seen.get(source, -1):
        return True
    seen[source] = told.source_offset
    return False


def _decoded(part: Slice, record: KafkaRecord, out: Emissions) -> Shown | None:
    try:
        told: Shown = decode_shown(record.value or b"")
    except msgspec.DecodeError as error:
        out.dead_letter(part, record, EventError("bad_shape", f"nothing told of a list: {error}"))
        return None
    return told
