"""What servers held when they made some decisions: users, items, catalogue and profiles, put together in one pass."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from msgspec import Struct

from models.topic_reader import Bounds, OnProgress, bounds
from persona_stream.explain.cut import Cut, Ends, cut_told
from persona_stream.kafka.writer import Partitioner
from persona_stream.skew.items_then import ItemsThen
from persona_stream.skew.reasons import LOG_GONE
from persona_stream.skew.users_then import UsersThen
from persona_stream.skew.versions_then import CatalogueThen, ProfilesThen
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Decision
from persona_stream.worker.app import agent_specs
from tables.features.attributes import AttributeColumns

Show = Callable[[str], AbstractContextManager[OnProgress]]


class Case(Struct, frozen=True):
    """A decision that can be compared, and up to where each table had been folded."""

    decision: Decision
    cut: Cut

    @classmethod
    def of(cls, decision: Decision) -> "Case":
        """Of a decision that tells its state."""
        assert decision.state is not None
        return cls(decision, cut_told(decision, decision.state))


class Then:
    """The states of all cases. `attributes` is where the catalogue is held, of one case at a time."""

    def __init__(self, settings: Settings, cases: list[Case], attributes: AttributeColumns) -> None:
        self._settings = settings
        self._partition_of = Partitioner(settings.partitions)
        self._specs = {spec.table: spec for spec in agent_specs(settings, with_examples=False)}
        self._attributes = attributes
        self._users = UsersThen(settings)
        self._items = ItemsThen(settings, self._specs["items"])
        self._catalogue = CatalogueThen(settings, self._specs["catalogue"])
        self._profiles = ProfilesThen(settings, self._specs["profiles"])
        self.cases = cases

    @property
    def folded(self) -> int:
        """How many records all of it took."""
        return self._users.folded + self._items.folded + self._catalogue.folded + self._profiles.folded

    async def read(self, show: Show) -> dict[str, str]:
        """Read each topic once. Returns, by decision, why some are no cases any more. Raises as `read_topic`."""
        item_events = await bounds(self._settings, self._specs["items"].source)
        are_items_whole = not any(held.first for held in item_events.values())
        gone = await self._drop_those_gone(item_events, are_items_whole=are_items_whole)
        if not self.cases:
            return gone
        self._wish()
        if are_items_whole:
            with show(f"folding {self._specs['users'].source}") as on_progress:
                await self._users.read(on_progress)
            with show(f"folding {self._specs['items'].source}") as on_progress:
                await self._items.read(on_progress)
        else:
            await self._derive(show, {partition: held.end for partition, held in item_events.items()})
        if self._attributes.needs.any():
            with show(f"folding {self._specs['catalogue'].source}") as on_progress:
                cuts = [case.cut.catalogue for case in self.cases]
                await self._catalogue.read(cuts, self._attributes, on_progress)
        with show(f"folding {self._specs['profiles'].source}") as on_progress:
            await self._profiles.read(on_progress)
        return gone

    async def _derive(self, show: Show, ends: Ends) -> None:
        users_to: dict[tuple[int, int], Ends] = {}
        for case in self.cases:
            for item in case.decision.items:
                users_to[self._item_stop(case, item)] = case.cut.users
        with show(f"reading what is left of {self._specs['items'].source}") as on_progress:
            derived = await self._items.reached(users_to, ends, on_progress)
        with show(f"folding {self._specs['users'].source}") as on_progress:
            await self._users.read(on_progress, item_events_to=derived.ends(), take=derived.take)
        derived.finish()

    async def _drop_those_gone(self, item_events: dict[int, Bounds], *, are_items_whole: bool) -> dict[str, str]:
        """Cases whose log is gone are none any more; returns them."""
        events = await bounds(self._settings, self._specs["users"].source)
        gone = {
            case.decision.id: LOG_GONE
            for case in self.cases
            if self._is_gone(case, events, item_events, are_items_whole=are_items_whole)
        }
        self.cases = [case for case in self.cases if case.decision.id not in gone]
        return gone

    def _is_gone(
        self, case: Case, events: dict[int, Bounds], item_events: dict[int, Bounds], *, are_items_whole: bool
    ) -> bool:
        if are_items_whole:
            return events[self._user_stop(case)[0]].first > 0
        # What is left of the item events tells which events had reached an item, if it reaches back to the decision.
        stops = [self._item_stop(case, item) for item in case.decision.items]
        return any(held.first for held in events.values()) or any(item_events[p].first > end > 0 for p, end in stops)

    def _wish(self) -> None:
        for case in self.cases:
            decision = case.decision
            self._users.wishes.add(*self._user_stop(case), decision.user)
            self._profiles.wishes.add(*self._profile_stop(case), decision.user)
            for item in decision.items:
                self._items.wishes.add(*self._item_stop(case, item), item)

    def _user_stop(self, case: Case) -> tuple[int, int]:
        partition = self._partition_of(case.decision.user.encode())
        if case.decision.user_applied >= 0:
            return partition, case.decision.user_applied + 1
        return partition, case.cut.users.get(partition, 0)

    def _item_stop(self, case: Case, item: str) -> tuple[int, int]:
        partition = self._partition_of(item.encode())
        return partition, case.cut.items.get(partition, 0)

    def _profile_stop(self, case: Case) -> tuple[int, int]:
        partition = self._partition_of(case.decision.user.encode())
        return partition, case.cut.profiles.get(partition, 0)

    def user(self, case: Case) -> bytes | None:
        """The encoded state of the user, None where nothing was held."""
        return self._users.wishes.state(case.decision.user, self._user_stop(case)[1])

    def item(self, case: Case, item: str) -> bytes | None:
        """The encoded state of an item shown."""
        return self._items.wishes.state(item, self._item_stop(case, item)[1])

    def profile(self, case: Case) -> bytes | None:
        """What was known of the user from elsewhere, encoded."""
        return self._profiles.wishes.state(case.decision.user, self._profile_stop(case)[1])

    def move_catalogue(self, case: Case) -> None:
        """Have `attributes` hold the catalogue of then."""
        self._catalogue.move(self._attributes, case.cut.catalogue)

    def catalogue_may_lack(self, case: Case) -> bool:
        """Whether the catalogue of then may have had what the log has no more."""
        return self._catalogue.may_lack(case.cut.catalogue)

    def profile_may_lack(self, case: Case) -> bool:
        """Whether the user's profile of then may be gone."""
        return self._profiles.may_lack(case.decision.user, *self._profile_stop(case))
