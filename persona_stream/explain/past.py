"""What a server held when it made a decision, put together again: the folds of the stream, over the log up to a cut.

Only what matters to the decision is folded: the user's own partition of events, the items ranked, their entries in the
catalogue, the learner.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any

from aiokafka import ConsumerRecord

from models.topic_reader import OnProgress, bounds, read_topic
from persona_stream.explain.cut import Cut, Ends
from persona_stream.explain.item_events import item_states
from persona_stream.kafka.writer import Partitioner
from persona_stream.serving.replica import Replica
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Decision
from persona_stream.worker.app import AgentSpec, agent_specs
from tables.covisits import co_visited
from tables.users import UserState

Show = Callable[[str], AbstractContextManager[OnProgress]]
"""Shows that a piece of work goes on, and how far it is."""
UNSCORED = frozenset({"unknown-user", "deadline", "model-error"})
"""Fallbacks of answers that no model had a part in."""


class Past:
    """Puts tables together in `replica`; `notes` say what can't be as it was, `folded` how many records it took."""

    def __init__(self, settings: Settings, decision: Decision, cut: Cut, show: Show) -> None:
        """`settings.partitions` must be the topics'."""
        self._settings = settings
        self._decision = decision
        self._cut = cut
        self._show = show
        self._specs = {spec.table: spec for spec in agent_specs(settings, with_examples=False)}
        self._partition_of = Partitioner(settings.partitions)
        self.replica = Replica(settings)
        self.user: UserState | None = None
        self.notes = list(cut.notes)
        self.superseded: set[str] = set()
        """Items of which the catalogue's topic has a newer version only: what stood before may be gone."""
        self.superseded_elsewhere = 0
        """How many other items of the catalogue are so; or they are younger than the decision, and played no part."""
        self.folded = 0

    async def restore(self) -> None:
        """Fold all that the decision depended on. Raises as `read_topic` does."""
        await self._restore_user()
        items = {*self._decision.ranked, *self._decision.items, *self._decision.withheld}
        await self._restore_items(items | set(co_visited(self.user) if self.user else ()))
        # Features compare with all of the catalogue: its mean price, how rare a word is in it.
        everything = self.replica.attributes.needs.any()
        catalogue = await self._restore_versions("catalogue", self._cut.catalogue, None if everything else items)
        self.superseded = catalogue & items
        self.superseded_elsewhere = len(catalogue - items)
        await self._restore_versions("profiles", self._cut.profiles, {self._decision.user})
        if self._decision.fallback not in UNSCORED:
            await self._restore_learner()

    async def _restore_user(self) -> None:
        user, spec = self._decision.user, self._specs["users"]
        partition = self._partition_of(user.encode())
        end = self._cut.users.get(partition, 0)
        if self._decision.user_applied >= 0:
            end = self._decision.user_applied + 1
        lost = (await bounds(self._settings, spec.source))[partition].first
        if lost:
            self.notes.append(
                f"the first {lost:,} offsets of {spec.source}/{partition} are gone: what they did is lost"
            )
        people: Partition[UserState] = Partition(spec.codec)
        with self._show(f"folding {spec.source}") as on_progress:
            async for records in read_topic(
                self._settings, spec.source, ends={partition: end}, on_progress=on_progress
            ):
                self._fold(spec, records, people)
                # Others matter by the watermark alone, which is the partition's.
                for other in [name for name in people if name != user]:
                    people.delete(other)
        self.user = people.get(user)
        if self.user is not None:
            self._put(spec, user, self.user)

    async def _restore_items(self, items: Collection[str]) -> None:
        spec = self._specs["items"]
        held = await item_states(self._settings, items, self._cut, self._show)
        self.notes += held.notes
        self.folded += held.folded
        for item, state in held.states.items():
            self._put(spec, item, state)

    async def _restore_versions(self, table: str, ends: Ends, keys: Collection[str] | None) -> set[str]:
        """Fold what the topic says of some keys, None: of all; returns those of which it has only what came later."""
        spec = self._specs[table]
        names = None if keys is None else {key.encode() for key in keys}
        by_partition: dict[int, Partition[Any]] = {}
        later: set[str] = set()
        with self._show(f"folding {spec.source}") as on_progress:
            async for records in read_topic(self._settings, spec.source, on_progress=on_progress):
                partition = records[0].partition
                wanted = [record for record in records if names is None or record.key in names]
                end = ends.get(partition, 0)
                later |= {record.key.decode() for record in wanted if record.offset >= end and record.key is not None}
                held = by_partition.setdefault(partition, Partition(spec.codec))
                self._fold(spec, [record for record in wanted if record.offset < end], held)
        known: set[str] = set()
        for held in by_partition.values():
            for key in held:
                known.add(key)
                self._put(spec, key, held.get(key))
        return later - known

    async def _restore_learner(self) -> None:
        spec = self._specs["learner"]
        by_partition: dict[int, Partition[Any]] = {}
        with self._show(f"learning from {spec.source}") as on_progress:
            async for records in read_topic(
                self._settings, spec.source, ends=self._cut.learner, on_progress=on_progress
            ):
                self._fold(spec, records, by_partition.setdefault(records[0].partition, Partition(spec.codec)))
        for held in by_partition.values():
            for key in held:
                self._put(spec, key, held.get(key))

    def _fold(self, spec: AgentSpec, records: list[ConsumerRecord], state: Partition[Any]) -> None:
        if records:
            spec.fold.process(Slice(spec.source, records[0].partition, records), state)
            state.changed.clear()
            self.folded += len(records)

    def _put(self, spec: AgentSpec, key: str, value: object) -> None:
        self.replica.tables[spec.table].apply(key, spec.codec.encode(value))
