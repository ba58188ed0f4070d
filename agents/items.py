"""The items agent: `internal.item-events` -> table `items`, and examples for the learner.

An event that is part of an example brings the user's side of its features along; the item's side is added here, as of
just before the event, and the row goes to `examples.v1`.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from agents.emissions import Emissions
from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import KINDS, OTHER, RATING
from persona_stream.vocabulary.messages import (
    NO_EXAMPLE,
    SHOWN,
    Example,
    ItemEvent,
    ShownRows,
    decode_item_event,
    encode,
)
from persona_stream.vocabulary.topics import Topics
from tables.counters import LONGS_BYTES, PANES_BYTES, stack_longs, stack_panes
from tables.features.blocks import CounterBlock
from tables.features.plan import Plan, attribution_of, plan_of, row_bytes
from tables.items import ItemState, apply_item_event, covisit_counts


class Items:
    """Folds slices of `internal.item-events`. A replay that is after the state alone goes `with_examples=False`."""

    def __init__(self, settings: Settings, *, with_examples: bool = True) -> None:
        self._with_examples = with_examples
        self._topics = Topics(settings.namespace)
        self._plan = plan_of(settings)
        attribution = attribution_of(settings)
        # Of the types that are counted together only ratings are ever outcomes.
        self._weights = [attribution.weight_of(RATING if kind == KINDS[OTHER] else kind) for kind in KINDS]

    def process(self, part: Slice, items: Partition[ItemState]) -> Emissions:
        """Fold a slice into `items`; returns the examples made."""
        out = Emissions(self._topics)
        rows = _ItemRows(self._plan, self._weights)
        progress = items.progress
        done, watermark_ms = progress.offset, progress.watermark_ms
        for record in part:
            if record.offset <= done or record.value is None:
                continue
            try:
                event = decode_item_event(record.value)
            except msgspec.DecodeError as error:
                out.dead_letter(part, record, EventError("bad_shape", f"not an item event: {error}"))
                continue
            # Redeliveries too: after a crash the watermark must be what it was.
            if event.ts_ms > watermark_ms:
                watermark_ms = event.ts_ms
            state = items.change(event.item)
            is_example = self._with_examples and event.label != NO_EXAMPLE
            if is_example:
                rows.add(state, event, record.offset)
            if apply_item_event(state, event):
                out.outcomes["applied"] += 1
            else:
                out.outcomes["redelivered"] += 1
                if is_example:
                    rows.drop_last()
        progress.watermark_ms = watermark_ms
        rows.emit(part.partition, out, self._topics)
        progress.advance(part)
        return out

    @staticmethod
    def fold(events: Sequence[ItemEvent], items: Partition[ItemState]) -> None:
        """Fold events as they come from the interactions' fold, for the state alone."""
        change, progress = items.change, items.progress
        for event in events:
            apply_item_event(change(event.item), event)
        progress.watermark_ms = max([progress.watermark_ms, *[event.ts_ms for event in events]])
        progress.events += len(events)


class _ItemRows:
    """Raw inputs of the item's side of example rows, copied before their events are applied."""

    def __init__(self, plan: Plan, weights: Sequence[float]) -> None:
        self._plan = plan
        self._weights = weights
        self._events: list[tuple[int, ItemEvent]] = []
        self._panes = bytearray()
        self._longs = bytearray()
        self._visits: list[bytes] = []

    def add(self, state: ItemState, event: ItemEvent, offset: int) -> None:
        self._events.append((offset, event))
        self._panes += state.panes
        self._longs += state.longs
        self._visits.append(bytes(state.visits))

    def drop_last(self) -> None:
        del self._events[-1], self._visits[-1], self._panes[-PANES_BYTES:], self._longs[-LONGS_BYTES:]

    def emit(self, partition: int, out: Emissions, topics: Topics) -> None:
        """Rows whose outcome is known are examples; those of lists shown go to where it will be."""
        if not self._events:
            return
        as_of_ms = np.array([event.ts_ms for _, event in self._events])
        panes, longs = stack_panes([self._panes]), stack_longs([self._longs])
        covisits = covisit_counts(self._visits, [event.recent_items for _, event in self._events])
        counters = CounterBlock(panes, longs, as_of_ms, covisits=covisits)
        item_side = row_bytes(self._plan.item(counters))
        shown: list[ShownRows] = []
        examples: list[Record] = []
        for row, (offset, event) in zip(item_side, self._events, strict=True):
            features = event.user_features + row
            if event.label == SHOWN:
                self._add_shown(shown, event, features, partition, offset)
                continue
            weight = self._weights[event.kind] if event.label > 0 else 1.0
            example = Example(
                group=event.group,
                user=event.user,
                ts_ms=event.ts_ms,
                feature_hash=self._plan.features.hash,
                items=[event.item],
                features=features,
                labels=[event.label],
                origin="online",
                source_partition=partition,
                source_offset=offset,
                weights=[weight] if weight != 1.0 else [],
            )
            examples.append(Record(event.user.encode(), encode(example)))
        out.emit_all(topics.examples, examples)
        out.emit_all(topics.shown, [Record(rows.user.encode(), encode(rows)) for rows in shown])

    def _add_shown(
        self, shown: list[ShownRows], event: ItemEvent, features: bytes, partition: int, offset: int
    ) -> None:
        """One more row: a list's items come one after another, so the latest record is most often its own."""
        of_list = (event.group, event.user, event.ts_ms)
        if shown and (shown[-1].group, shown[-1].user, shown[-1].ts_ms) == of_list:
            rows = shown[-1]
            rows.items.append(event.item)
            rows.features += features
            rows.source_offset = offset
        else:
            made_with, items = self._plan.features.hash, [event.item]
            shown.append(ShownRows(event.user, event.group, event.ts_ms, partition, offset, made_with, items, features))
