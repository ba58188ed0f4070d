"""The interactions agent: `events.v1` -> table `users`, and every event re-keyed for the items agent.

For a batch of one partition: decode and check each event, fold it into its user's state, and hand it on to its items.
An outcome (click, cart, purchase) becomes an example: what was known of the user just before goes with it, and with an
item that the user did not choose.
"""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from agents.emissions import Emissions, forwarded_from
from persona_stream.kafka.writer import Partitioner, Record
from persona_stream.stream.partition import Partition, Progress
from persona_stream.stream.slices import KafkaRecord, Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import KIND_INDEX, Event, check_skew, grade_of, parse_event
from persona_stream.vocabulary.messages import SHOWN, ItemEvent, Opened, Outcome, encode
from persona_stream.vocabulary.topics import Topics
from tables.covisits import SPREAD, co_visited_hashes, neighbours, told_by
from tables.features.blocks import Indices, Request, RowsBuilder
from tables.features.lookups import Lookups, nothing_known
from tables.features.plan import Plan, attribution_of, plan_of, row_bytes
from tables.sketches import NAME_HASHES
from tables.users import (
    HASH_MASK,
    Counted,
    Rules,
    UserState,
    admit,
    answered_impressions,
    apply_event,
    counted,
    shown_items,
)

ROWS_SHOWN = 50
"""So many items of a list become rows: what lies beyond is hardly ever seen."""
RECENT_KEPT = 64
_IMPRESSION = KIND_INDEX["impression"]
NOT_COUNTED = -1
_NO_MARK = (0, 0)
_DRAWS = 8
"""So often an item of others is looked for among the latest."""


def rules_of(settings: Settings) -> Rules:
    """The part of the settings that the users fold depends on."""
    return Rules(
        session_gap_ms=settings.session_gap_ms,
        attribution=attribution_of(settings),
        segment_field=settings.segment_field,
        lateness_ms=settings.allowed_lateness_ms,
    )


class Interactions:
    """Folds slices of `events.v1`. Holds no state of its own: all is in the partition it is given.

    `lookups`: what features look up beside that state; by default nothing is known. A replay that is after the state
    alone goes `with_examples=False`; one that has no server beside it, which would tell the rows of its decisions, goes
    `all_rows=True`.
    """

    def __init__(
        self,
        settings: Settings,
        lookups: Lookups | None = None,
        *,
        with_examples: bool = True,
        all_rows: bool = False,
    ) -> None:
        self.settings = settings
        self._plan = plan_of(settings)
        self._lookups = lookups or nothing_known(self._plan.needs)
        self._with_examples = with_examples
        self._all_rows = all_rows
        self._topics = Topics(settings.namespace)
        self._rules = rules_of(settings)
        self._skew_ms = settings.max_future_skew_ms
        self._partition_of = Partitioner(settings.partitions)

    def process(self, part: Slice, users: Partition[UserState]) -> Emissions:
        """Fold a slice into `users`; returns what is to be written elsewhere first."""
        out = Emissions(self._topics)
        made = self.fold(part, users, out)
        out.emit_all(self._topics.item_events, [Record(one.item.encode(), encode(one)) for one in made])
        return out

    def fold(self, part: Slice, users: Partition[UserState], out: Emissions) -> list[ItemEvent]:
        """Fold a slice into `users`; returns its events re-keyed by item, and puts into `out` what else there is."""
        examples = None
        if self._with_examples:
            examples = _Examples(self._plan, self._lookups, self._rules.session_gap_ms, all_rows=self._all_rows)
        fold = _SliceFold(part, users, self._rules, out, examples)
        progress = users.progress
        for record in part:
            if record.offset <= progress.offset:
                continue
            if record.headers and self._sent_on_before(record, progress, out):
                continue
            event = self._checked(part, record, users, out)
            if event is None:
                continue
            ts_ms = int(event.ts)
            behind_ms = progress.watermark_ms - ts_ms
            if behind_ms > self._rules.lateness_ms:
                out.late(part, record, behind_ms)
                continue
            if behind_ms < 0:
                progress.watermark_ms = ts_ms
            fold.apply(event, ts_ms, record.offset)
        progress.advance(part)
        return fold.item_events()

    @staticmethod
    def _sent_on_before(record: KafkaRecord, progress: Progress, out: Emissions) -> bool:
        """Whether a record sent on from another partition came a second time: after a crash there, at a new offset."""
        origin = forwarded_from(record)
        if origin is None:
            return False
        partition, offset = origin
        if offset <= progress.forwarded.get(partition, -1):
            out.outcomes["redelivered"] += 1
            return True
        progress.forwarded[partition] = offset
        return False

    def _checked(self, part: Slice, record: KafkaRecord, users: Partition[UserState], out: Emissions) -> Event | None:
        try:
            event = parse_event(record.value)
            check_skew(int(event.ts), record.timestamp, self._skew_ms)
            key = _key_of(record, event)
        except EventError as error:
            out.dead_letter(part, record, error)
            return None
        # Producers that hash otherwise than Kafka's own (librdkafka's default) put users in other partitions: a user
        # known here is in the right one; a new one is looked up, and sent on if this is not it.
        if event.user not in users and self._partition_of(key) != part.partition:
            out.outcomes["rerouted"] += 1
            out.forward(part, record)
            return None
        return event


class _Examples:
    """The rows of a slice's examples, each gathered before its event is applied and all evaluated together."""

    def __init__(self, plan: Plan, lookups: Lookups, gap_ms: int, *, all_rows: bool) -> None:
        self._plan = plan
        self.all_rows = all_rows
        """Whether lists of decisions need rows as well."""
        self._traits = lookups.traits
        self._rows = RowsBuilder(lookups.attributes, gap_ms)
        self._events: list[ItemEvent] = []

    def add_choice(self, made: Sequence[ItemEvent], event: Event, state: UserState, grade: int) -> None:
        """An item chosen from no list that is known, and one that was not."""
        made[0].label = grade
        self._add(made, event, state, None)

    def add_list(self, made: Sequence[ItemEvent], event: Event, state: UserState) -> None:
        """A list shown, in its order."""
        for one in made:
            one.label = SHOWN
        self._add(made, event, state, np.arange(len(made)))

    def _add(self, made: Sequence[ItemEvent], event: Event, state: UserState, positions: Indices | None) -> None:
        items = [one.item for one in made]
        request = Request(event.context or {}, event.slot or "", self._traits(event.user))
        touches, ts_ms = state.touches, made[0].ts_ms
        self._rows.add(event.user, state, items, ts_ms, positions=positions, request=request, touches=touches)
        recent, group = co_visited_hashes(state), event.decision_id or event.id
        for one in made:
            one.group, one.user, one.recent_items = group, event.user, recent
        self._events += made

    def evaluate(self) -> None:
        """Give each event its row."""
        if self._events:
            rows = row_bytes(self._plan.person(self._rows.rows()))
            for row, made in zip(rows, self._events, strict=True):
                made.user_features = row


class _SliceFold:
    """One slice's way through the fold: gathers item events, and the rows of examples to evaluate together."""

    def __init__(
        self, part: Slice, users: Partition[UserState], rules: Rules, out: Emissions, examples: _Examples | None
    ) -> None:
        self._examples = examples
        self._partition = part.partition
        self._users = users
        self._rules = rules
        self._out = out
        self._events: list[ItemEvent] = []
        self._marks: dict[str, tuple[int, int]] = {}
        """Without examples: item -> (newest time, highest offset) of those it was a negative of. That much it keeps."""

    def apply(self, event: Event, ts_ms: int, offset: int) -> None:
        """Fold one event. What is gathered for its items is the user's state as of just before it."""
        state = self._users.change(event.user)
        outcome = admit(state, event, ts_ms, offset, self._rules)
        if outcome == "new":
            of_event = counted(event, ts_ms, self._rules)
            made = self._item_events(event, of_event, offset)
            self._events += made
            if made and of_event.kind == _IMPRESSION:
                self._show(made, event, state)
            elif made and (grade := grade_of(event)):
                self._choose(made[0], event, state, grade)
            if made and of_event.kind != _IMPRESSION:
                # Showing an item is no visit: only what users do relates items. Behind the example: its rows are as of
                # before this event, and what it tells of earlier visits follows from it.
                self._relate(made[0], state)
            apply_event(state, event, of_event, self._rules)
            outcome = "applied"
        self._out.outcomes[outcome] += 1
        if event.item is not None:
            # Redeliveries too: after a crash the ring must be what it was, whatever part of a slice got through.
            self._remember(event.item)

    def item_events(self) -> list[ItemEvent]:
        """All item events of the slice, with the rows gathered evaluated."""
        if self._examples is not None:
            self._examples.evaluate()
        # Behind the events: an event of a lower offset than its item knows would count for a redelivery.
        marks = [
            ItemEvent(item, NOT_COUNTED, ts_ms, 0, self._partition, offset, "", 0, b"", 0)
            for item, (ts_ms, offset) in self._marks.items()
        ]
        return self._events + marks

    def _item_events(self, event: Event, made: Counted, offset: int) -> list[ItemEvent]:
        kind, ts_ms, amount, partition, segment = made.kind, made.ts_ms, made.value_milli, self._partition, made.segment
        if kind == _IMPRESSION:
            shown = shown_items(event)
            return [ItemEvent(item, kind, ts_ms, amount, partition, offset, segment) for item in shown]
        if event.item is None:
            return []
        visitor = NAME_HASHES[event.user] & HASH_MASK
        return [ItemEvent(event.item, kind, ts_ms, amount, partition, offset, segment, visitor)]

    def _relate(self, made: ItemEvent, state: UserState) -> None:
        """Tell the item its neighbours, and earlier visits what they could not know."""
        if not state.visits:
            return
        made.neighbours = neighbours(state, made.item, made.ts_ms)
        partition, offset = made.source_partition, made.source_offset
        for ts_ms, item, near in told_by(state, made.item, made.ts_ms):
            self._events.append(ItemEvent(item, NOT_COUNTED, ts_ms, 0, partition, offset, "", made.visitor, near))

    def _show(self, made: list[ItemEvent], event: Event, state: UserState) -> None:
        """Tell of a list. Its rows are made here, unless a decision has logged them and they are to be had."""
        if self._examples is None:
            return
        shown, group = made[:ROWS_SHOWN], event.decision_id or event.id
        if event.decision_id is None or self._examples.all_rows:
            self._examples.add_list(shown, event, state)
        items = [one.item for one in shown]
        opened = Opened(event.user, group, made[0].ts_ms, made[0].source_offset, event.slot or "", items)
        self._out.emit(self._out.topics.shown, event.user, encode(opened))

    def _choose(self, chosen: ItemEvent, event: Event, state: UserState, grade: int) -> None:
        """Tell of an outcome: of the list that it answers, or as an example of its own."""
        groups = [event.decision_id] if event.decision_id is not None else []
        if state.pending:
            answered = answered_impressions(state, event, chosen.ts_ms, self._rules)
            # Two impressions of one name are one list.
            groups = list(dict.fromkeys([name for _, name, _ in answered])) or groups
        if not groups:
            if self._rules.attribution.is_example(event.id):
                self._add_choice(chosen, event, state, grade)
        elif self._examples is not None:
            ts_ms, offset, others = chosen.ts_ms, chosen.source_offset, groups[1:]
            weight = self._rules.attribution.weight_of(event.type)
            outcome = Outcome(event.user, groups[0], ts_ms, offset, chosen.item, grade, others, weight)
            self._out.emit(self._out.topics.shown, event.user, encode(outcome))

    def _add_choice(self, chosen: ItemEvent, event: Event, state: UserState, grade: int) -> None:
        ts_ms, partition, offset = chosen.ts_ms, chosen.source_partition, chosen.source_offset
        other = self._chosen_by_others(chosen, state)
        if self._examples is None:
            if other is not None:
                self._marks[other] = max(ts_ms, self._marks.get(other, _NO_MARK)[0]), offset
            return
        made = [chosen]
        if other is not None:
            negative = ItemEvent(other, NOT_COUNTED, ts_ms, 0, partition, offset, chosen.segment, 0, b"", 0)
            self._events.append(negative)
            made.append(negative)
        self._examples.add_choice(made, event, state, grade)

    def _chosen_by_others(self, chosen: ItemEvent, state: UserState) -> str | None:
        """An item that users were with of late, other than the one chosen.

        Which one follows from the event's place in the log: the same at every replay. So it is by how often items are
        chosen. None is the user's own on purpose: among candidates those are few, and a model that met as many of them
        as of all others would learn that what a user had is what a user leaves (ADR 0013). Nor is one of the user's
        session: where few users come at a time, the latest items are mostly this one's, and none that was left.
        """
        recent = self._users.progress.recent_items
        if not recent:
            return None
        first = bisect_left(state.visits, (chosen.ts_ms - self._rules.session_gap_ms,))
        mine = {item for _, item, _ in state.visits[first:]}
        place = chosen.source_offset * SPREAD >> 24
        for draw in range(_DRAWS):
            other = recent[(place >> 4 * draw) % len(recent)]
            if other != chosen.item and other not in mine:
                return other
        return None

    def _remember(self, item: str) -> None:
        ring = self._users.progress.recent_items
        ring.append(item)
        if len(ring) > RECENT_KEPT:
            del ring[0]


def _key_of(record: KafkaRecord, event: Event) -> bytes:
    if record.key is None:
        raise EventError("missing_key", "the record has no key; it must be the user id, which orders a user's events")
    if record.key != event.user.encode():
        raise EventError("key_mismatch", f"the record's key {record.key[:40]!r} is not its user {event.user[:40]!r}")
    return record.key
