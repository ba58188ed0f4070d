"""Up to where each topic had been folded in the state that a decision was made on."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from models.topic_reader import bounds
from persona_stream.kafka.generations import Built, read_history
from persona_stream.serving.views import rfc3339
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Decision, Positions
from persona_stream.vocabulary.topics import Topics

Ends = Mapping[int, int]
"""Partition -> the offset after the last one folded."""


_UNCOUNTED = ("catalogue/", "profiles/")


class Cut(Struct, frozen=True):
    """Where each table's source is to be cut."""

    users: Ends
    items: Ends
    catalogue: Ends
    profiles: Ends
    learner: Ends
    counted: Mapping[str, int] = {}
    """Items that are to be folded up to so many events, be they before the cut or behind it."""
    notes: list[str] = []
    """What the decision does not tell, and what stands for it."""


async def cut_of(settings: Settings, decision: Decision) -> Cut:
    """Where the decision says; one of before decisions told: at its time. Raises as `read_topic`."""
    state = decision.state
    if state is None:
        return await _at_time(settings, decision.ts_ms)
    cut = cut_told(decision, state)
    if state.generations:
        cut.notes.extend(of_generations((await read_history(settings)).built(), state.generations))
    return cut


def cut_told(decision: Decision, state: Positions) -> Cut:
    """Where the decision itself says."""
    notes = [
        f"the server was reading a change of {place}: some of its keys may have been newer than was noted"
        for place in state.unsettled
        if place.startswith(_UNCOUNTED)
    ]
    return Cut(
        users=_after(state.users),
        items=_after(state.items),
        catalogue=_after(state.catalogue),
        profiles=_after(state.profiles),
        learner=_after(decision.learner),
        counted=dict(zip(decision.ranked, decision.counted, strict=bool(decision.counted))),
        notes=notes,
    )


def of_generations(built: Mapping[int, Built], generations: Mapping[str, int]) -> list[str]:
    """What generations of tables hold that a fold of the log by today's settings does not give.

    `built`: generations that are there, by number.
    """
    notes = []
    for table, number in generations.items():
        made = built.get(number)
        if made is not None and made.lateness_ms is not None:
            notes.append(
                f"{table} was in generation {number}, folded with a lateness of {made.lateness_ms} ms: the"
                " late events in it are not folded here"
            )
        if made is not None and made.until_ms:
            notes.append(
                f"{table} was in generation {number}, which holds what happened before {rfc3339(made.until_ms)}"
            )
    return notes


def _after(offsets: Sequence[int]) -> Ends:
    return {partition: offset + 1 for partition, offset in enumerate(offsets) if offset >= 0}


async def _at_time(settings: Settings, ts_ms: int) -> Cut:
    topics = Topics(settings.namespace)
    sources = {
        "users": topics.events,
        "items": topics.item_events,
        "catalogue": topics.items,
        "profiles": topics.profiles,
        "learner": topics.examples,
    }
    ends: dict[str, Ends] = {}
    for table, topic in sources.items():
        held = await bounds(settings, topic, at_ms=ts_ms + 1)
        ends[table] = {partition: bound.end for partition, bound in held.items() if bound.end}
    note = (
        "the decision is older than the fields that tell its state: what was in Kafka at its time stands for what the"
        " server had read by then, and what was ranked beside the items shown is not known"
    )
    return Cut(
        users=ends["users"],
        items=ends["items"],
        catalogue=ends["catalogue"],
        profiles=ends["profiles"],
        learner=ends["learner"],
        notes=[note],
    )
