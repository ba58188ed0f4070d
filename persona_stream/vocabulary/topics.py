"""The topics: their names, and how each is to be created."""

from collections.abc import Iterator

from msgspec import Struct

from persona_stream.vocabulary.config import Settings

MAX_EVENT_BYTES = 1024 * 1024
FIRST_GENERATION = 1
"""The generation of a table that was never rebuilt."""
_DAY_MS = 86_400_000
# The broker's own clock stamps every record: no producer's clock can fool the skew rule, retention goes by when records
# came, and a worker whose clock is ahead can write (Kafka refuses what clients stamp more than an hour ahead).
_STAMPED = {"message.timestamp.type": "LogAppendTime"}
_COMPACTED = {**_STAMPED, "cleanup.policy": "compact"}
_KEPT = {**_STAMPED, "retention.ms": "-1"}
# Above the largest event, so that an oversized record reaches the dead-letter topic with its reason, whole.
_ROOMY = {"max.message.bytes": str(4 * MAX_EVENT_BYTES)}


class TopicSpec(Struct, frozen=True):
    """One topic: its full name, its partitions and its broker-side settings."""

    name: str
    partitions: int
    config: dict[str, str]


class Topics:
    """Full topic names for a namespace: `Topics("persona").events == "persona.events.v1"`."""

    def __init__(self, namespace: str) -> None:
        self.events = f"{namespace}.events.v1"
        self.items = f"{namespace}.items.v1"
        self.profiles = f"{namespace}.profiles.v1"
        self.item_events = f"{namespace}.internal.item-events"
        self.shown = f"{namespace}.internal.shown"
        self.examples = f"{namespace}.examples.v1"
        self.decisions = f"{namespace}.decisions.v1"
        self.models = f"{namespace}.models.v1"
        self.deadletter = f"{namespace}.deadletter.v1"
        self.late = f"{namespace}.late.v1"
        self.generations = f"{namespace}.generations.v1"
        self._namespace = namespace

    def changelog(self, table: str, generation: int = FIRST_GENERATION) -> str:
        """The changelog topic of a generation of the table named `table`."""
        suffix = "" if generation == FIRST_GENERATION else f"-g{generation}"
        return f"{self._namespace}-{table}-changelog{suffix}"


TABLES = ("users", "items", "catalogue", "profiles", "impressions", "learner")
SERVED_TABLES = tuple(table for table in TABLES if table != "impressions")
"""Those that servers hold: lists whose window is open are no part of any answer."""


def topic_specs(settings: Settings) -> Iterator[TopicSpec]:
    """Every topic the system needs, in the order of the data's way."""
    topics = Topics(settings.namespace)
    n = settings.partitions
    yield TopicSpec(topics.events, n, {**_KEPT, **_ROOMY})
    yield TopicSpec(topics.items, n, {**_COMPACTED, **_ROOMY})
    yield TopicSpec(topics.profiles, n, {**_COMPACTED, **_ROOMY})
    yield TopicSpec(topics.item_events, n, {**_STAMPED, **_ROOMY, "retention.ms": str(7 * _DAY_MS)})
    yield TopicSpec(topics.shown, n, {**_STAMPED, **_ROOMY, "retention.ms": str(7 * _DAY_MS)})
    yield TopicSpec(topics.examples, n, {**_KEPT, **_ROOMY})
    yield TopicSpec(topics.decisions, n, {**_KEPT, **_ROOMY})
    # Models are a few hundred kilobytes each; one partition keeps promotions in one order for every reader.
    yield TopicSpec(topics.models, 1, {**_COMPACTED, "max.message.bytes": str(64 * MAX_EVENT_BYTES)})
    # Which generation of each table is live: every change of that, in one order.
    yield TopicSpec(topics.generations, 1, _KEPT)
    yield TopicSpec(topics.deadletter, n, {**_KEPT, **_ROOMY})
    yield TopicSpec(topics.late, n, {**_KEPT, **_ROOMY})
    for table in TABLES:
        yield changelog_spec(settings, table)


def changelog_spec(settings: Settings, table: str, generation: int = FIRST_GENERATION) -> TopicSpec:
    """The changelog of a generation of a table."""
    name = Topics(settings.namespace).changelog(table, generation)
    return TopicSpec(name, settings.partitions, {**_COMPACTED, **_ROOMY, "segment.ms": str(_DAY_MS)})
