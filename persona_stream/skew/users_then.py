"""Users as of many decisions: `events.v1` folded once, for as far as any of them needs it."""

from collections.abc import Callable, Collection, Mapping

from aiokafka import ConsumerRecord

from agents.emissions import Emissions
from agents.interactions import Interactions
from models.topic_reader import OnProgress
from persona_stream.skew.passage import Wishes, pass_through
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import ItemEvent
from persona_stream.vocabulary.topics import Topics
from tables import users
from tables.users import UserState

TakeItemEvents = Callable[[int, list[ItemEvent]], None]
"""Takes what the events of a source partition mean for items, in the order of the events."""


class UsersThen:
    """The states of users. `folded`: how many records it took."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = Topics(settings.namespace)
        self._fold = Interactions(settings, with_examples=False)
        self.wishes = Wishes()
        self.folded = 0

    async def read(
        self,
        on_progress: OnProgress,
        *,
        item_events_to: Mapping[int, int] | None = None,
        take: TakeItemEvents | None = None,
    ) -> None:
        """Fold the topic up to the last stop, and on to `item_events_to` where item events are taken.

        Raises as `read_topic`.
        """
        people: dict[int, Partition[UserState]] = {}
        wanted = {partition: self._names(partition) for partition in range(self._settings.partitions)}

        def fold(partition: int, records: list[ConsumerRecord]) -> None:
            state = people.setdefault(partition, Partition(users.codec))
            part = Slice(self._topics.events, partition, records)
            made = self._fold.fold(part, state, Emissions(self._topics))
            state.changed.clear()
            self.folded += len(records)
            if take is not None:
                take(partition, made)
                return
            # Others matter by the watermark alone, which is the partition's; item events follow from all of them.
            for other in [name for name in state if name not in wanted[partition]]:
                state.delete(other)
            state.changed.clear()

        def look(partition: int, end: int, keys: Collection[str]) -> None:
            for key in keys:
                self.wishes.fulfil(key, end, people[partition].encoded(key) if partition in people else None)

        ends = self.wishes.ends()
        for partition, end in (item_events_to or {}).items():
            ends[partition] = max(end, ends.get(partition, 0))
        await pass_through(self._settings, self._topics.events, self.wishes.stops, fold, look, on_progress, ends=ends)

    def _names(self, partition: int) -> set[str]:
        return {key.decode() for key in self.wishes.keys(partition)}
