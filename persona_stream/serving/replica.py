"""The replica: every server reads all changelogs itself, by the batch, into memory laid out for ranking.

It knows for each table how far the fold has come (the progress record that ends every change) and how far it has read
itself, and so how stale an answer is. See docs/adr/0003-replicas.md.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from msgspec import Struct

from models.registry import RegistryState, fold_models
from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.reader import free_consumer
from persona_stream.serving.item_columns import ItemColumns
from persona_stream.stream.partition import OWNER_KEY, PROGRESS_KEY, Progress, decode_progress
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import FIRST_GENERATION, SERVED_TABLES, Topics
from tables import catalogue, items, profiles
from tables import learner as learner_table
from tables.features.attributes import AttributeColumns
from tables.features.lookups import Lookups
from tables.features.plan import plan_of

LAG_POLL_S = 0.2
"""How often the ends of the source topics are asked for: a lag in an answer is at most this old."""
FETCH_BYTES = 1024 * 1024
"""Of a partition in one fetch. Four times as much is read a quarter slower, and a quarter of it as well."""
IDLE_MS = 1000
CATCH_UP_MS = 100
PACE_S = 0.003
"""Under a steady trickle, fetches begin at least this far apart; what comes after a pause is applied at once."""
# A batch applied in one go holds the event loop; this many items take less than a millisecond.
APPLY_RECORDS = 32

logger = logging.getLogger(__name__)

Apply = Callable[[str, bytes | None], None]
Changes = dict[bytes, bytes | None]
_KEY, _VALUE = attrgetter("key"), attrgetter("value")


class TableView:
    """How one table is read: what applies a record, and its partitions' progress."""

    def __init__(self, name: str, source: str, apply: Apply, keys: Callable[[], int]) -> None:
        self.name = name
        self.source = source
        self.apply = apply
        self.keys = keys
        self.progress: dict[int, Progress] = {}
        self.unsettled: set[int] = set()
        """Partitions of which a change was read in part: some keys are newer than the progress tells."""
        self.source_ends: dict[int, int] = {}
        self.changelog_lag = 0

    def lag_events(self) -> int:
        """Source records that are not in the replica yet, as of the last poll."""
        behind = 0
        for partition, end in self.source_ends.items():
            progress = self.progress.get(partition)
            behind += max(0, end - 1 - (progress.offset if progress else -1))
        return behind

    def applied_ms(self) -> int:
        """Kafka timestamp of the newest source record that is in the replica, 0 if none is."""
        return max((progress.appended_ms for progress in self.progress.values()), default=0)


class Models(Struct):
    """The learner's states and the registry; the versions grow with each change."""

    learner: dict[str, learner_table.LearnerState] = {}
    learner_version: int = 0
    registry: RegistryState = RegistryState()
    registry_version: int = 0


class Replica:
    """Everything that serving needs, in memory. `start()` begins to read; `error` tells if reading ended."""

    def __init__(self, settings: Settings, generations: Mapping[str, int] | None = None, as_of_ms: int = 0) -> None:
        """`generations`: of each table, by default the first. `as_of_ms`: event time stands there; 0: it goes on."""
        self._settings = settings
        self._topics = Topics(settings.namespace)
        self.as_of_ms = as_of_ms
        self.generations = {table: (generations or {}).get(table, FIRST_GENERATION) for table in SERVED_TABLES}
        self.users: dict[str, bytes] = {}
        """Encoded UserState: decoding one costs about 20 us, holding objects costs the memory of ten."""
        self.items = ItemColumns()
        self.catalogue: dict[str, catalogue.CatalogueEntry] = {}
        self.restricted: dict[str, catalogue.CatalogueEntry] = {}
        """The few entries that are hidden or deleted, or will expire: most requests need look no item up."""
        self.profiles: dict[str, bytes] = {}
        self.attributes = AttributeColumns(plan_of(settings).needs)
        """What features read of the catalogue."""
        self.lookups = Lookups(self.attributes, self._traits)
        self.models = Models()
        self.error: BaseException | None = None
        self.has_caught_up = False
        """Everything that was in the changelogs when reading began has been read; a later lag does not undo this."""
        topics = self._topics
        views = (
            TableView("users", topics.events, self._apply_user, lambda: len(self.users)),
            TableView("items", topics.item_events, self._apply_item, lambda: len(self.items)),
            TableView("catalogue", topics.items, self._apply_catalogue, lambda: len(self.catalogue)),
            TableView("profiles", topics.profiles, self._apply_profile, lambda: len(self.profiles)),
            TableView("learner", topics.examples, self._apply_learner, lambda: len(self.models.learner)),
        )
        assert {view.name for view in views} == set(SERVED_TABLES)
        self.tables = {view.name: view for view in views}
        self._by_changelog = {topics.changelog(view.name, self.generations[view.name]): view for view in views}
        # One reads, one asks for ends: on one connection a question waits until the fetch before it is answered.
        self._consumers: list[AIOKafkaConsumer] = []
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self.changes_applied = 0
        """Grows with each batch of changelog records applied."""
        self._is_following = False
        """Whether what is held is what the changelogs hold before the positions; not while it catches up."""
        self.records_read = 0
        """Changelog records read since the start."""
        self.polled_s = 0.0
        """Monotonic time of the last poll of ends, 0 before the first."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect and begin reading. Raises aiokafka's errors where no broker answers."""
        await ensure_topics(self._settings)
        consumer, poller = self._new_consumer(), self._new_consumer()
        self._consumers = [consumer, poller]
        for client in self._consumers:
            await client.start()
        partitions = range(self._settings.partitions)
        assigned = [TopicPartition(topic, p) for topic in self._by_changelog for p in partitions]
        assigned.append(TopicPartition(self._topics.models, 0))
        consumer.assign(assigned)
        await consumer.seek_to_beginning(*assigned)
        self._positions = await consumer.beginning_offsets(assigned)
        self.error = None
        self._is_following = False
        self._tasks = [asyncio.create_task(self._read(consumer)), asyncio.create_task(self._poll_ends(poller))]
        for task in self._tasks:
            task.add_done_callback(self._note_failure)

    async def stop(self) -> None:
        """Stop reading; what is held stays and can still be asked."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Both, whatever the first one does: aiokafka may end its stop() with the CancelledError of a task of its own.
        await asyncio.gather(*(client.stop() for client in self._consumers), return_exceptions=True)

    def _new_consumer(self) -> AIOKafkaConsumer:
        return free_consumer(self._settings, auto_offset_reset="earliest", max_partition_fetch_bytes=FETCH_BYTES)

    def changelog(self, table: str) -> str:
        """The topic that a table is read from."""
        return next(topic for topic, view in self._by_changelog.items() if view.name == table)

    def positions(self, table: str) -> dict[int, int] | None:
        """By partition, the changelog offset before which all is held of a table; None while it catches up."""
        topic = self.changelog(table)
        if not self._is_following:
            return None
        return {tp.partition: at for tp, at in self._positions.items() if tp.topic == topic}

    def now_ms(self) -> int:
        """Event time now: the newest watermark of the users table, moved on by the wall time since it was reached.

        On live events this is the clock; on a replayed year it is that year's end, and all servers agree on it.
        """
        if self.as_of_ms:
            return self.as_of_ms
        wall_ms = time.time_ns() // 1_000_000
        clocks = [
            progress.watermark_ms + max(0, wall_ms - progress.appended_ms)
            for progress in self.tables["users"].progress.values()
            if progress.watermark_ms
        ]
        return max(clocks, default=wall_ms)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        await self._catch_up(consumer)
        self.has_caught_up = self._is_following = True
        # What was read stays: a full collection need not visit it while a request waits.
        gc.freeze()
        while True:
            fetched = await consumer.getmany(timeout_ms=IDLE_MS)
            fetched_s = time.monotonic()
            for tp, records in fetched.items():
                for start in range(0, len(records), APPLY_RECORDS):
                    part = records[start : start + APPLY_RECORDS]
                    self._apply(tp, {record.key: record.value for record in part})
                    self._note_settled(tp, part)
                    self._positions[tp] = part[-1].offset + 1
                    self.records_read += len(part)
                    # Requests must not wait behind a long batch.
                    await asyncio.sleep(0)
            if not fetched:
                await self._note_positions(consumer)
            await asyncio.sleep(max(0.0, fetched_s + PACE_S - time.monotonic()))

    async def _catch_up(self, consumer: AIOKafkaConsumer) -> None:
        """Read what is there by now; of each key only the newest value is applied."""
        ends = await consumer.end_offsets(list(self._positions))
        newest: dict[TopicPartition, Changes] = {tp: {} for tp in ends}
        while any(self._positions[tp] < end for tp, end in ends.items()):
            for tp, records in (await consumer.getmany(timeout_ms=CATCH_UP_MS)).items():
                newest[tp].update(zip(map(_KEY, records), map(_VALUE, records), strict=True))
                self._note_settled(tp, records)
                self.records_read += len(records)
                await asyncio.sleep(0)
            await self._note_positions(consumer)
        for tp, changes in newest.items():
            left = iter(changes.items())
            while part := dict(islice(left, APPLY_RECORDS)):
                self._apply(tp, part)
                await asyncio.sleep(0)

    async def _note_positions(self, consumer: AIOKafkaConsumer) -> None:
        """Where all records before were applied: a transaction's end takes an offset, too, and is no record."""
        for tp in self._positions:
            self._positions[tp] = await consumer.position(tp)

    def _note_settled(self, tp: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        """Note whether what was read ends with a whole change; that a partition has a new owner changes nothing."""
        last = next((record.key for record in reversed(records) if record.key != OWNER_KEY), None)
        view = self._by_changelog.get(tp.topic)
        if view is not None and last is not None:
            (view.unsettled.discard if last == PROGRESS_KEY else view.unsettled.add)(tp.partition)

    def _apply(self, tp: TopicPartition, changes: Changes) -> None:
        self.changes_applied += 1
        view = self._by_changelog.get(tp.topic)
        if view is None:
            self._apply_models(changes)
            return
        progress = changes.pop(PROGRESS_KEY, None)
        changes.pop(OWNER_KEY, None)
        for key, value in changes.items():
            view.apply(key.decode(), value)
        if progress is not None:
            view.progress[tp.partition] = decode_progress(progress)

    def _apply_user(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.users.pop(key, None)
        else:
            self.users[key] = value

    def _apply_item(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.items.delete(key)
        else:
            self.items.put(key, items.codec.decode(value))

    def _apply_catalogue(self, key: str, value: bytes | None) -> None:
        self.restricted.pop(key, None)
        if value is None:
            self.catalogue.pop(key, None)
            self.attributes.put(key, {})
            return
        entry = self.catalogue[key] = catalogue.codec.decode(value)
        self.attributes.put(key, entry.attributes)
        if entry.is_restricted():
            self.restricted[key] = entry

    def _apply_profile(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.profiles.pop(key, None)
        else:
            self.profiles[key] = value

    def profile(self, user: str) -> profiles.ProfileEntry | None:
        """What is known of a user from elsewhere."""
        raw = self.profiles.get(user)
        return profiles.codec.decode(raw) if raw is not None else None

    def _traits(self, user: str) -> Mapping[str, Any]:
        profile = self.profile(user)
        return profile.traits if profile else {}

    def _apply_learner(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.models.learner.pop(key, None)
        else:
            self.models.learner[key] = learner_table.codec.decode(value)
        self.models.learner_version += 1

    def _apply_models(self, changes: Changes) -> None:
        self.models.registry = fold_models(changes.items(), self.models.registry)
        self.models.registry_version += 1

    async def _poll_ends(self, poller: AIOKafkaConsumer) -> None:
        partitions = range(self._settings.partitions)
        sources = {view.source: view for view in self.tables.values()}
        source_tps = [TopicPartition(source, p) for source in sources for p in partitions]
        own_tps = list(self._positions)
        while True:
            ends = await poller.end_offsets(source_tps + own_tps)
            for tp in source_tps:
                sources[tp.topic].source_ends[tp.partition] = ends[tp]
            self._ends = {tp: ends[tp] for tp in own_tps}
            for topic, view in self._by_changelog.items():
                view.changelog_lag = sum(
                    max(0, end - self._positions[tp]) for tp, end in self._ends.items() if tp.topic == topic
                )
            self.polled_s = time.monotonic()
            await asyncio.sleep(LAG_POLL_S)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.error = task.exception()
            logger.error("the replica stopped reading", exc_info=self.error)
