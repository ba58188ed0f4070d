"""One rebuild: fold the sources as far as the live tables are, write, and compare."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from time import perf_counter, time_ns

import msgspec
from msgspec import Struct

from models.topic_reader import OnProgress
from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.generations import Built, History
from persona_stream.rebuild.compare import Comparison, compare, take_over
from persona_stream.rebuild.events import fold_events, fold_what_came_since, since_users
from persona_stream.rebuild.folding import Folded, fold_source, fold_users, folded_of
from persona_stream.rebuild.snapshot import Snapshot, committed, covers, end_offsets, read_snapshot
from persona_stream.rebuild.writing import next_number, write_generation
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import ItemEvent
from persona_stream.vocabulary.topics import TABLES, Topics, changelog_spec, topic_specs
from persona_stream.worker.app import AgentSpec, agent_specs

Bar = Callable[[str], AbstractContextManager[OnProgress]]
"""Shows how far a piece of work is, under a name."""


class Wanted(Struct, frozen=True, kw_only=True):
    """What is to be folded."""

    tables: Sequence[str] = TABLES
    until_ms: int = 0
    """Only what happened before this time; 0: everything."""
    lateness_ms: int | None = None
    """Another allowed lateness than the workers': late events are folded."""


class Outcome(Struct):
    """A generation that is written and read back, and how it compares with the live one."""

    built: Built
    tables: list[Folded]
    comparisons: list[Comparison]
    seconds: float

    @property
    def may_be_switched(self) -> bool:
        """Whether it is as the live one is, key by key."""
        return not any(found.differing or found.failure for found in self.comparisons)


class Rebuild:
    """Builds one generation; `run` gives the outcome."""

    def __init__(self, settings: Settings, history: History, wanted: Wanted, bar: Bar) -> None:
        self._history = history
        self._wanted = wanted
        self._bar = bar
        self._settings = settings
        self._topics = Topics(settings.namespace)
        self._folding = settings
        if wanted.lateness_ms is not None:
            self._folding = msgspec.structs.replace(settings, allowed_lateness_ms=wanted.lateness_ms)
        self._specs = {spec.table: spec for spec in agent_specs(self._folding, with_examples=False)}
        self._live: dict[str, Snapshot] = {}
        self._failures: dict[str, str] = {}
        self._item_ends: dict[int, int] = {}
        """Where item events end among which is all that follows from the users' events that are folded."""
        self._since: dict[int, int] | None = None
        """Where item events end of which all is folded; None while events come: then it goes by time."""
        self._taken: dict[str, int] = {}

    async def run(self) -> Outcome:
        """Fold, write, read back, compare. Raises GenerationError, and what readers and writers raise."""
        started_s = perf_counter()
        await self._read_live()
        tables = [folded_of(self._specs[table], self._settings) for table in TABLES if table in self._wanted.tables]
        by_name = {table.spec.table: table for table in tables}
        if by_name.keys() & {"users", "items"}:
            await self._fold_events(by_name)
        for table in tables:
            if table.spec.table not in {"users", "items"}:
                await self._fold(table)
        for table in tables:
            self._settle(table)
        number = await next_number(self._settings, self._history)
        with self._bar("writing and reading back"):
            await write_generation(self._settings, number, tables)
        comparisons = [self._compare(table) for table in tables]
        built = Built(
            number=number,
            at_ms=time_ns() // 1_000_000,
            tables=list(by_name),
            events=sum(table.records for table in tables if table.spec.table != "items"),
            keys=sum(len(made) for table in tables for made in table.written.values()),
            differing=sum(found.differing for found in comparisons),
            until_ms=self._wanted.until_ms,
            lateness_ms=self._wanted.lateness_ms,
        )
        return Outcome(built, tables, comparisons, perf_counter() - started_s)

    async def _read_live(self) -> None:
        """The live tables but the items, which `_read_live_items` reads when all is folded."""
        live = self._history.live()
        await ensure_topics(self._settings, topic_specs(self._settings))
        await ensure_topics(self._settings, [changelog_spec(self._settings, *pair) for pair in live.items()])
        wanted = {*self._wanted.tables} - {"items"}
        if "items" in self._wanted.tables:
            wanted.add("users")
        for table in filter(wanted.__contains__, TABLES):
            changelog = self._topics.changelog(table, live[table])
            self._live[table] = await read_snapshot(self._settings, changelog)
        if "items" in self._wanted.tables:
            # Behind users: all that follows from the users' events is in Kafka by then.
            self._item_ends = await end_offsets(self._settings, self._topics.item_events)
            if covers(await end_offsets(self._settings, self._topics.events))(self._live["users"]):
                self._since = self._item_ends

    async def _read_live_items(self) -> None:
        """The live items, at least as far as what follows from the users' events that are folded."""
        ends, changelog = self._item_ends, self._topics.changelog("items", self._history.live()["items"])
        self._live["items"] = snapshot = await read_snapshot(self._settings, changelog, covers(ends))
        behind = sum(max(0, end - snapshot[number].folded) for number, end in ends.items())
        if behind and not covers(ends)(snapshot):
            self._failures["items"] = f"the live table is {behind:,} records behind; let its workers catch up"

    async def _ends(self, table: str) -> dict[int, int]:
        """Up to where a source is folded: as far as the live table is. What follows from that is in Kafka already.

        Beyond it workers go on, and send on what follows: folded here, that would be missing from other topics. A table
        that has lost its changelog goes by what its workers have committed.
        """
        snapshot = self._live[table]
        ends = {number: held.folded for number, held in snapshot.items()}
        if any(held.progress is None for held in snapshot.values()):
            known = await committed(self._settings, self._specs[table].source)
            ends |= {number: known.get(number, 0) for number, held in snapshot.items() if held.progress is None}
        return ends

    async def _fold_events(self, by_name: dict[str, Folded]) -> None:
        users = by_name.get("users") or folded_of(self._specs["users"], self._settings)
        items, ends, until_ms = by_name.get("items"), await self._ends("users"), self._wanted.until_ms
        with self._bar("events") as on_progress:
            if items is None:
                await fold_users(
                    self._settings, users, ends, until_ms=until_ms, on_progress=on_progress, hand_on=_not_wanted
                )
            else:
                await fold_events(
                    self._folding,
                    users,
                    items,
                    ends,
                    until_ms=until_ms,
                    on_progress=on_progress,
                    meanwhile=self._read_live_items,
                )
        _stand_at(users, ends)
        if items is not None and not until_ms:
            await self._fold_what_came_since(items)

    async def _fold_what_came_since(self, items: Folded) -> None:
        """Item events of later events than were folded, as far as the live table has them."""
        topics, since = self._topics, self._since
        if since is None:
            since = await since_users(self._settings, topics.item_events, topics.events, self._live["users"])
        if "items" in self._failures:
            _stand_at(items, since)
            return
        ends = await self._ends("items")
        with self._bar("item events since") as on_progress:
            await fold_what_came_since(self._settings, items, ends, since, on_progress)
        _stand_at(items, ends)

    async def _fold(self, table: Folded) -> None:
        ends = await self._ends(table.spec.table)
        with self._bar(table.spec.table) as on_progress:
            await fold_source(
                self._settings, table, ends, starts=None, until_ms=self._wanted.until_ms, on_progress=on_progress
            )
        _stand_at(table, ends)

    def _settle(self, table: Folded) -> None:
        """What is not the fold's to know: counts of records that are gone, and what compaction has taken."""
        compacted = _is_compacted(self._settings, table.spec)
        for number, held in self._live[table.spec.table].items():
            folded, live = table.partitions[number], held.progress
            if live is None or self._wanted.until_ms:
                continue
            if compacted and live.events > folded.progress.events:
                taken = take_over(held, folded, table.spec.codec)
                self._taken[table.spec.table] = self._taken.get(table.spec.table, 0) + taken
            if compacted or (table.spec.table == "items" and table.spec.table not in self._failures):
                folded.progress.events, folded.progress.appended_ms = live.events, live.appended_ms

    def _compare(self, table: Folded) -> Comparison:
        name = table.spec.table
        if self._wanted.until_ms:
            digest = sum(part.progress.digest for part in table.partitions.values())
            keys = sum(map(len, table.written.values()))
            return Comparison(name, digest % 2**64, keys=keys, failure="as of another time than the live one")
        found = compare(table, self._live[name])
        found.taken_over = self._taken.get(name, 0)
        found.failure = self._failures.get(name, "")
        if found.failure:
            found.differing, found.differences = 0, []
        return found


def _not_wanted(made: list[ItemEvent]) -> None:
    """Users alone are folded: what follows for items goes nowhere."""


def _stand_at(table: Folded, ends: Mapping[int, int]) -> None:
    for number, end in ends.items():
        table.partitions[number].progress.offset = end - 1


def _is_compacted(settings: Settings, spec: AgentSpec) -> bool:
    configs = {topic.name: topic.config for topic in topic_specs(settings)}
    return configs[spec.source].get("cleanup.policy") == "compact"
