"""The items table folded again from `events.v1`: `internal.item-events` keeps a few days only.

An item's value does not depend on how partitions interleave, and what is told it twice changes nothing: what follows
from the events that the users table has is folded first, then what the topic still has, as far as the items table is.
"""

from collections.abc import Mapping

from models.topic_reader import OnProgress
from persona_stream.rebuild.events import fold_events, fold_what_came_since, since_users
from persona_stream.rebuild.folding import folded_of
from persona_stream.rebuild.snapshot import Snapshot, covers, end_offsets, log_starts, read_snapshot
from persona_stream.stream.partition import Partition
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import PersonaError
from persona_stream.vocabulary.topics import Topics
from persona_stream.worker.app import AgentSpec, agent_specs


class UnderivableError(PersonaError):
    """The items can't be folded from the events."""


async def derive_items(
    settings: Settings, spec: AgentSpec, live: Mapping[str, int], on_progress: OnProgress
) -> tuple[Snapshot, dict[int, Partition[object]]]:
    """The items table as it stands now, and folded again as far. Raises UnderivableError."""
    topics = Topics(settings.namespace)
    users = next(agent for agent in agent_specs(settings, with_examples=False) if agent.table == "users")
    lost = sum((await log_starts(settings, users.source)).values())
    if lost:
        raise UnderivableError(f"{lost:,} events are gone")
    people = await read_snapshot(settings, topics.changelog("users", live["users"]), settle_s=0)
    # All that follows from the users' events is in Kafka by now; items must have come that far.
    ends = await end_offsets(settings, spec.source)
    stored = await read_snapshot(settings, topics.changelog("items", live["items"]), covers(ends))
    if not covers(ends)(stored):
        raise UnderivableError("its workers are behind")
    items = folded_of(spec, settings)
    known = {number: held.folded for number, held in people.items()}
    await fold_events(settings, folded_of(users, settings), items, known, until_ms=0, on_progress=on_progress)
    since = await since_users(settings, spec.source, users.source, people)
    stands = {number: held.folded for number, held in stored.items()}
    await fold_what_came_since(settings, items, stands, since, on_progress)
    for number, end in (await end_offsets(settings, spec.source)).items():
        if end <= stored[number].folded:
            # No slice can be on its way: all that is held must stand.
            stored[number].settle()
    return stored, items.partitions
