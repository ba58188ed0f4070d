"""Why a decision can't be compared to the last bit: counted by reason, never passed over."""

from collections.abc import Mapping

from persona_stream.explain.cut import of_generations
from persona_stream.kafka.generations import Built
from persona_stream.kafka.writer import Partitioner
from persona_stream.vocabulary.messages import Decision
from tables.features.plan import Plan

UNREADABLE = "unreadable"
NO_ITEMS = "no-items"
NO_STATE = "no-state"
FEATURE_HASH = "feature-hash"
GENERATION = "generation"
UNSETTLED = "unsettled"
LOG_GONE = "log-gone"
COMPACTED = "compacted"

MEANINGS = {
    UNREADABLE: "the record is no decision that today's code can read",
    NO_ITEMS: "nothing was shown",
    NO_STATE: "the decision is older than the fields that tell on what state it was made",
    FEATURE_HASH: "the features were declared otherwise then",
    GENERATION: "a table was in a generation that was folded by other rules, or up to a time",
    UNSETTLED: "the server was reading a change: some keys were newer than the positions it told",
    LOG_GONE: "records that it takes to put the state together are gone from the log",
    COMPACTED: "compaction may have removed the version of an item or a profile that the features were made of",
}
"""Every reason, in words."""


class Sorter:
    """Tells of a decision alone whether it can be compared. `built`: generations that are there, by number."""

    def __init__(self, plan: Plan, built: Mapping[int, Built], partition_of: Partitioner) -> None:
        self._plan = plan
        self._built = built
        self._partition_of = partition_of

    def why_not(self, decision: Decision) -> str | None:
        """The reason why a decision can't be compared, None where it can."""
        state = decision.state
        if not decision.items:
            return NO_ITEMS
        if decision.feature_hash != self._plan.features.hash:
            return FEATURE_HASH
        if len(decision.features) != 4 * self._plan.features.width * len(decision.items):
            return UNREADABLE
        if state is None:
            return NO_STATE
        if not set(decision.items) <= set(decision.ranked):
            return UNREADABLE
        played_a_part = {table: number for table, number in state.generations.items() if table != "learner"}
        if of_generations(self._built, played_a_part):
            return GENERATION
        return UNSETTLED if self._is_unsettled(decision, state.unsettled) else None

    def _is_unsettled(self, decision: Decision, unsettled: list[str]) -> bool:
        # Of the user, the decision tells the state's own place, so a change of `users` read in part does no harm.
        own = {f"items/{self._partition_of(item.encode())}" for item in decision.items}
        own.add(f"profiles/{self._partition_of(decision.user.encode())}")
        reads_catalogue = self._plan.needs.any()
        return any(place in own or (reads_catalogue and place.startswith("catalogue/")) for place in unsettled)
