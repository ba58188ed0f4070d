"""The Faust app: which agent folds which topic into which table, and in what order effects reach Kafka."""

import asyncio
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Protocol

import faust
from faust.auth import SASLCredentials, SSLCredentials
from faust.types import StreamT
from faust.types.auth import CredentialsT
from msgspec import Struct

from agents.catalogue import Catalogue, Profiles
from agents.emissions import Emissions
from agents.impressions import Impressions
from agents.interactions import Interactions
from agents.items import Items
from agents.learner import Learner
from persona_stream.kafka.fenced_writer import FencedWriter
from persona_stream.kafka.writer import BatchWriter, Partitioner
from persona_stream.stream.consumer import BatchingTransport, SliceSchema
from persona_stream.stream.garbage import settle
from persona_stream.stream.partition import Codec, Partition
from persona_stream.stream.recovery import ChangelogTables
from persona_stream.stream.slices import Slice
from persona_stream.stream.stored_partition import StoredPartition
from persona_stream.stream.stores import Stores
from persona_stream.stream.table import ChangelogTable
from persona_stream.vocabulary import metrics
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import FIRST_GENERATION, Topics
from persona_stream.worker.attribute_feed import AttributeFeed
from persona_stream.worker.effects import Effects, describe
from tables import catalogue, impressions, items, learner, profiles, users
from tables.features.attributes import AttributeColumns, Needs
from tables.features.lookups import Lookups
from tables.features.plan import feature_set, plan_of

FETCH_BYTES = 2 * 1024 * 1024
"""What one fetch may bring for a partition, and so about the largest slice."""


class Fold(Protocol):
    """An agent: folds a slice into its partition and returns what is to be written elsewhere."""

    def process(self, part: Slice, state: Partition[Any], /) -> Emissions: ...  # noqa: D102


class AgentSpec(Struct, frozen=True):
    """One agent: `fold` turns slices of `source` into changes of `table`."""

    table: str
    source: str
    codec: Codec[Any]
    fold: Fold


def agent_specs(settings: Settings, lookups: Lookups | None = None, *, with_examples: bool = True) -> list[AgentSpec]:
    """All agents, in the order of the data's way. Those that are after the state alone need make no examples.

    `lookups`: what features look up beside the tables' state; by default nothing is known.
    """
    topics = Topics(settings.namespace)
    return [
        AgentSpec("users", topics.events, users.codec, Interactions(settings, lookups, with_examples=with_examples)),
        AgentSpec("items", topics.item_events, items.codec, Items(settings, with_examples=with_examples)),
        AgentSpec("impressions", topics.shown, impressions.codec, Impressions(settings)),
        AgentSpec("learner", topics.examples, learner.codec, Learner(settings, feature_set(settings))),
        AgentSpec("catalogue", topics.items, catalogue.codec, Catalogue(settings)),
        AgentSpec("profiles", topics.profiles, profiles.codec, Profiles(settings)),
    ]


class WorkerApp(faust.App):
    """The Faust app with batched delivery and one batch writer for all effects."""

    settings: Settings
    writer: BatchWriter
    changelogs: FencedWriter
    effects: list[Effects]
    stores: Stores
    feed: AttributeFeed
    partition_of: Partitioner
    by_source: dict[str, ChangelogTable[Any]]
    """Source topic -> the table that it is folded into."""

    def folded(self, topic: str, partition: int) -> int | None:
        """The source offset up to which all is in the state held; None where that is kept in no table."""
        table = self.by_source.get(topic)
        return None if table is None else table.partition(partition).progress.offset

    def traits(self, user: str) -> Mapping[str, Any]:
        """What is known of a user from elsewhere: profiles are partitioned like events, so this worker has them."""
        table = self.by_source.get(Topics(self.settings.namespace).profiles)
        held = table.store.partitions.get(self.partition_of(user.encode())) if table is not None else None
        entry = held.get(user) if held is not None else None
        return entry.traits if entry is not None else {}

    def crash_soon(self, error: Exception) -> None:
        """End for a reason that no agent came upon."""
        self._ending = asyncio.ensure_future(self.crash(error))

    def open_partition(self, codec: Codec[Any], changelog: str, number: int) -> Partition[Any]:
        """A table's partition, held where the settings say."""
        if self.settings.store == "memory":
            return Partition(codec)
        return StoredPartition(codec, self.stores.open(changelog, number), self.settings.store_values)

    async def on_start(self) -> None:
        """Connect the writer before any agent can need it."""
        await self.writer.start()
        await self.changelogs.start()
        for effects in self.effects:
            effects.start()
        await self.feed.start()
        await super().on_start()

    async def on_stop(self) -> None:
        """Disconnect the writer once the agents have stopped and the consumer has waited for their effects."""
        await super().on_stop()
        await self.feed.stop()
        for effects in self.effects:
            await effects.stop()
        await self.changelogs.stop()
        await self.writer.stop()
        self.stores.close()


def build_app(
    settings: Settings, specs: list[AgentSpec] | None = None, live: Mapping[str, int] | None = None
) -> WorkerApp:
    """The worker's app, ready to start; `specs` defaults to all agents, `live` to every table's first generation."""
    app = WorkerApp(
        f"{settings.namespace}-worker",
        broker=[f"kafka://{server}" for server in settings.bootstrap().split(",")],
        broker_credentials=_credentials(settings),
        datadir=str(settings.home / "worker"),
        topic_partitions=settings.partitions,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        web_tables_enabled=False,
        TableManager=ChangelogTables,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=FETCH_BYTES,
        consumer_group_instance_id=settings.worker_id or None,
        # Slices are large: a handful in the queue keeps an agent busy and memory bounded.
        stream_buffer_maxsize=4,
        # A rebalance waits for slices in flight, so that their effects are complete before another worker starts.
        stream_wait_empty=True,
        broker_commit_interval=1.0,
        # `kafka.reader` checks what every consumer fetches.
        broker_check_crcs=False,
        # A worker that died holds its partitions for this long. Heartbeats have a thread of their own: a long fold does
        # not miss them.
        broker_session_timeout=8.0,
        broker_heartbeat_interval=2.0,
        # The writer has the effects in Kafka before a slice counts as applied; Faust's own producer sends nothing.
        processing_guarantee="at_least_once",
    )
    app.transport = BatchingTransport([app.conf.broker[0]], app)
    app.settings = settings
    app.changelogs = FencedWriter(settings, client_id=f"{settings.namespace}-changelogs")
    app.writer = BatchWriter(settings, client_id=f"{settings.namespace}-worker")
    app.effects = []
    app.by_source = {}
    app.partition_of = Partitioner(settings.partitions)
    app.stores = Stores(settings.home / "worker" / "stores", settings.worker_id)
    generations = live or {}
    # Agents that come from elsewhere bring their own.
    attributes = AttributeColumns(plan_of(settings).needs if specs is None else Needs())
    changelog = Topics(settings.namespace).changelog("catalogue", generations.get("catalogue", FIRST_GENERATION))
    app.feed = AttributeFeed(settings, attributes, changelog, app.crash_soon)
    lookups = Lookups(attributes, app.traits)
    for spec in agent_specs(settings, lookups) if specs is None else specs:
        _add_agent(app, spec, generations.get(spec.table, FIRST_GENERATION))
    return app


def _add_agent(app: WorkerApp, spec: AgentSpec, generation: int) -> None:
    topics = Topics(app.settings.namespace)
    table = ChangelogTable[Any](
        app,
        name=spec.table,
        codec=spec.codec,
        open_partition=app.open_partition,
        changelog=topics.changelog(spec.table, generation),
        assigned_as=topics.changelog(spec.table),
    )
    app.tables.add(table)
    app.by_source[spec.source] = table
    effects = Effects(app.writer, app.changelogs, spec.table, table.changelog, app.crash)
    app.effects.append(effects)

    async def run(stream: StreamT[Slice]) -> None:
        async for part in stream:
            started_s = perf_counter()
            try:
                partition = table.partition(part.partition)
                out = spec.fold.process(part, partition)
                changes = partition.take_changes()
            except Exception as error:
                # State in memory may be ahead of the changelog now: only a restart, which reads it again, is safe.
                app.log.exception("agent %s failed on %s", spec.table, describe(part))
                await app.crash(error)
                return
            count(spec.table, part, out, perf_counter() - started_s)
            await effects.submit(part, out, changes, partition)
            # While Kafka writes.
            settle()

    app.agent(app.topic(spec.source, schema=SliceSchema()), name=f"agents.{spec.table}")(run)


def count(agent: str, part: Slice, out: Emissions, fold_s: float) -> None:
    """Count what became of a slice's records."""
    for outcome, records in out.outcomes.items():
        metrics.EVENTS.labels(agent, outcome).inc(records)
    for reason, records in out.dead_by_reason.items():
        metrics.DEAD_LETTERS.labels(agent, reason).inc(records)
    metrics.SLICES.labels(agent).inc()
    metrics.FOLD_SECONDS.labels(agent).inc(fold_s)
    metrics.APPLIED_TIMESTAMP.labels(agent, str(part.partition)).set(part.records[-1].timestamp / 1000)


def _credentials(settings: Settings) -> CredentialsT | None:
    protocol = settings.kafka_security_protocol
    if protocol == "PLAINTEXT":
        return None
    context = settings.ssl_context() if "SSL" in protocol else None
    if protocol == "SSL":
        return SSLCredentials(context)
    return SASLCredentials(
        username=settings.kafka_sasl_username,
        password=settings.kafka_sasl_password,
        ssl_context=context,
        mechanism=settings.kafka_sasl_mechanism,
    )
