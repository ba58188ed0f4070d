"""The whole system in one process, without Kafka: events in, the tables' own folds, and an engine that can be asked.

For whatever replays a log: backfill, evaluation, previews. All users and items are in one partition, and a question is
answered on just what was folded before it.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agents.impressions import Impressions
from agents.interactions import Interactions
from agents.items import Items
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.serving.decisions import DecisionLog
from persona_stream.serving.engine import Engine
from persona_stream.serving.questions import Question
from persona_stream.serving.replica import Replica
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import LogRecord, Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Opened, decode_shown
from persona_stream.vocabulary.topics import Topics
from persona_stream.worker.app import Fold
from tables import catalogue, profiles
from tables import impressions as impressions_table
from tables import items as items_table
from tables import users as users_table
from tables.impressions import ShownList
from tables.items import ItemState
from tables.users import UserState


class InProcess:
    """Folds events; `engine` answers on what they left.

    What a decision logged is not here. With `all_rows`, rows of its list are made of what was known when it was shown.
    """

    def __init__(self, settings: Settings, *, with_examples: bool = False, all_rows: bool = False) -> None:
        # One partition holds all users here; it knows every key, so none is sent on to another.
        self.settings = msgspec.structs.replace(settings, partitions=1)
        self.replica = Replica(self.settings)
        self.engine = Engine(
            self.settings, self.replica, DecisionLog(self.settings, BatchWriter(self.settings, client_id="none"))
        )
        self._topics = Topics(settings.namespace)
        self._interactions = Interactions(
            self.settings, self.replica.lookups, with_examples=with_examples, all_rows=all_rows
        )
        self._items_agent = Items(self.settings, with_examples=with_examples)
        self._impressions = Impressions(self.settings)
        self.users: Partition[UserState] = Partition(users_table.codec)
        self.items: Partition[ItemState] = Partition(items_table.codec)
        self.lists: Partition[ShownList] = Partition(impressions_table.codec)

    def fold(self, events: Sequence[LogRecord]) -> list[Record]:
        """Fold records of events, at offsets after all before; returns the examples made of them."""
        if not events:
            return []
        told = self._interactions.process(Slice("", 0, events), self.users).by_topic
        self.users.changed.clear()
        of_items = self._handed_on(self._items_agent, told.get(self._topics.item_events, []), self.items)
        for item in self.items.changed:
            state = self.items.get(item)
            if state is not None:
                self.replica.items.put(item, state)
        self.items.changed.clear()
        shown = _with_rows(told.get(self._topics.shown, []), of_items.get(self._topics.shown, []))
        of_lists = self._handed_on(self._impressions, shown, self.lists)
        self.lists.changed.clear()
        return of_items.get(self._topics.examples, []) + of_lists.get(self._topics.examples, [])

    def _handed_on(self, agent: Fold, made: Sequence[Record], state: Partition[Any]) -> dict[str, list[Record]]:
        """What an agent makes of what another one made."""
        if not made:
            return {}
        first = state.progress.offset + 1
        records = [LogRecord(offset, 0, record.key, record.value) for offset, record in enumerate(made, first)]
        return agent.process(Slice("", 0, records), state).by_topic

    def put_item(self, item: str, attributes: Mapping[str, Any]) -> None:
        """Make an entry of the catalogue what it is from now on."""
        entry = catalogue.CatalogueEntry(attributes=dict(attributes))
        self.replica.tables["catalogue"].apply(item, catalogue.codec.encode(entry))

    def put_traits(self, user: str, traits: Mapping[str, Any]) -> None:
        """Make a profile what it is from now on."""
        entry = profiles.ProfileEntry(traits=dict(traits))
        self.replica.tables["profiles"].apply(user, profiles.codec.encode(entry))

    def ask(
        self,
        user: str,
        items: list[str],
        as_of_ms: int,
        *,
        ordered: bool,
        context: Mapping[str, Any] | None = None,
        slot: str = "",
    ) -> Question:
        """The features of a user with items as of now; `ordered`: their order is a feature."""
        self.show_user(user)
        return self.engine.question(user, items, as_of_ms, ordered=ordered, context=context or {}, slot=slot)

    def show_user(self, user: str) -> UserState | None:
        """Let the engine see what is held of a user; None if nothing is."""
        state = self.users.get(user)
        if state is not None:
            # Encoded when it is asked for: most changes of a user are followed by others before anyone asks.
            self.replica.users[user] = users_table.codec.encode(state)
        return state


def _with_rows(told: Sequence[Record], rows: Sequence[Record]) -> list[Record]:
    """What was told of lists, the rows of each right behind word of it: so it is the same however events are cut."""
    made: list[Record] = []
    left = deque((record, decode_shown(record.value or b"")) for record in rows)
    for record in told:
        made.append(record)
        opened = decode_shown(record.value or b"")
        while left and isinstance(opened, Opened) and left[0][1].group == opened.group:
            made.append(left.popleft()[0])
    return made + [record for record, _ in left]
