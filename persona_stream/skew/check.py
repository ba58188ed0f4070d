"""The skew check: the features of a sample of decisions computed again, beside those that were logged.

The log is read once, however many decisions are looked at: each topic is folded in one go, with a stop wherever a
decision was made, and the states of its user and items are put aside there. Then each question is asked again of an
engine that holds what the server held, by today's code and today's catalogue of features.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from models.topic_reader import OnProgress
from persona_stream.explain.compare import are_close
from persona_stream.kafka.generations import read_history
from persona_stream.kafka.writer import BatchWriter, Partitioner
from persona_stream.serving.decisions import DecisionLog
from persona_stream.serving.engine import Engine
from persona_stream.serving.item_columns import ItemColumns
from persona_stream.serving.replica import Replica
from persona_stream.skew.reasons import COMPACTED, UNREADABLE, Sorter
from persona_stream.skew.report import Report, Tally
from persona_stream.skew.sample import Wanted, take_sample
from persona_stream.skew.then import Case, Then
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import PersonaError
from persona_stream.vocabulary.topics import Topics
from tables import items as items_table
from tables.counters import Floats
from tables.features.plan import Plan, plan_of
from tables.features.python_kind import Python

Show = Callable[[str], AbstractContextManager[OnProgress]]
"""Shows that a piece of work goes on, and how far it is."""


class NoDecisionsError(PersonaError):
    """There is nothing to compare."""

    code = "no-decisions"


async def check_skew(settings: Settings, wanted: Wanted, show: Show) -> Report:
    """One round. `settings.partitions` must be the topics'.

    Raises NoDecisionsError where none were logged in the time asked for, and as `read_topic`.
    """
    with show("reading the decisions") as on_progress:
        taken = await take_sample(settings, wanted, on_progress)
    if not taken.found:
        raise _nothing(settings, wanted)
    plan = plan_of(settings)
    skipped = Counter({UNREADABLE: taken.unreadable} if taken.unreadable else {})
    sorter = Sorter(plan, (await read_history(settings)).built(), Partitioner(settings.partitions))
    cases = []
    for decision in taken.decisions:
        why_not = sorter.why_not(decision)
        if why_not is None:
            cases.append(Case.of(decision))
        else:
            skipped[why_not] += 1
    again = _Again(settings, plan)
    then = Then(settings, cases, again.replica.attributes)
    gone = await then.read(show)
    skipped.update(gone.values())
    for case in then.cases:
        why_not = again.compare(case, then)
        if why_not is not None:
            skipped[why_not] += 1
        await asyncio.sleep(0)
    return Report(
        found=taken.found,
        sampled=len(taken.decisions) + taken.unreadable,
        compared=again.compared,
        rows=again.rows,
        skipped=dict(sorted(skipped.items())),
        features=again.tally.worst_first(),
        records_folded=then.folded,
    )


def _nothing(settings: Settings, wanted: Wanted) -> NoDecisionsError:
    topic = Topics(settings.namespace).decisions
    if wanted.since_ms is None:
        return NoDecisionsError(
            f"no decisions are in topic {topic}.",
            hint="Has a server answered `/v1/rank` or `/v1/recommend` in this namespace? Is --namespace right?",
        )
    return NoDecisionsError(
        f"no decisions were logged in topic {topic} within the time asked for.",
        hint="Ask for a longer time with --since, or for the newest with --last.",
    )


class _Again:
    """An engine that is given one decision's state after the other, and what came of the comparisons."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self._settings = settings
        self.replica = Replica(settings)
        unused = DecisionLog(settings, BatchWriter(settings, client_id="skew"))
        self._engine = Engine(settings, self.replica, unused)
        self._width = plan.features.width
        self._of_attributes, self._of_traits = _columns_of(plan)
        self.tally = Tally(plan.features.names)
        self.compared = 0
        self.rows = 0

    def compare(self, case: Case, then: Then) -> str | None:
        """Ask a decision's question again; returns a reason where what differs can be laid to compaction alone."""
        decision = case.decision
        logged = np.frombuffer(decision.features, dtype=np.float32).reshape(len(decision.items), self._width)
        today = self._recomputed(case, then)
        differs = ~are_close(logged, today)
        # What stood in the catalogue may be gone: of features that are made of that nothing is known.
        doubtful: NDArray[np.bool_] = (then.catalogue_may_lack(case) & self._of_attributes) | (
            then.profile_may_lack(case) & self._of_traits
        )
        if differs.any() and not differs[:, ~doubtful].any():
            return COMPACTED
        self.tally.add(decision.id, decision.items, logged, today, differs & ~doubtful)
        self.compared += 1
        self.rows += len(decision.items)
        return None

    def _recomputed(self, case: Case, then: Then) -> Floats:
        """float32 `[items, width]`, a row an item shown."""
        decision, replica = case.decision, self.replica
        then.move_catalogue(case)
        replica.users = _held(decision.user, then.user(case))
        replica.profiles = _held(decision.user, then.profile(case))
        # Counters are those of the item alone: of what was ranked and not shown none are needed.
        replica.items = ItemColumns()
        for item in decision.items:
            state = then.item(case, item)
            if state is not None:
                replica.items.put(item, items_table.codec.decode(state))
        told = {} if decision.segment is None else {self._settings.segment_field: decision.segment}
        question = self._engine.question(
            decision.user,
            decision.ranked,
            decision.as_of_ms,
            ordered=decision.asked == "rank",
            context=decision.context | told,
            slot=decision.slot,
        )
        place = {item: at for at, item in enumerate(decision.ranked)}
        rows: Floats = question.features[[place[item] for item in decision.items]]
        return rows


def _held(key: str, state: bytes | None) -> dict[str, bytes]:
    return {} if state is None else {key: state}


def _columns_of(plan: Plan) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which columns are made of the catalogue's attributes, and which of a user's traits: bool `[width]` each."""
    attributes: list[bool] = []
    traits: list[bool] = []
    for one in plan.declared:
        # A function of one's own may look at anything that a row is made of.
        is_own, columns = isinstance(one.feature, Python), len(one.feature.suffixes())
        attributes += [is_own or one.feature.needs().any()] * columns
        traits += [is_own or bool(one.feature.trait_fields())] * columns
    return np.array(attributes, dtype=np.bool_), np.array(traits, dtype=np.bool_)
