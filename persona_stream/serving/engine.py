"""The ranking engine: from a user and candidates to an answer, synchronously, on what the replica holds.

An answer always comes. Where the best way can't be gone, the next plainer one is, and the answer says why:
models -> the user's own history -> trending in the user's segment -> the order given.
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from msgspec import Struct

from persona_stream.serving.candidates import KIND_WEIGHTS, MAX_CANDIDATES, Trending, candidates_for
from persona_stream.serving.decisions import DecisionLog
from persona_stream.serving.freshness import Freshness, freshness
from persona_stream.serving.history_rule import history_features, history_scores
from persona_stream.serving.item_columns import ItemColumns, Rows
from persona_stream.serving.positions import PositionsNow
from persona_stream.serving.replica import Replica
from persona_stream.serving.schemas import (
    Answer,
    ItemList,
    ItemView,
    RankedItem,
    RankRequest,
    ScoredItem,
    UserView,
    WindowName,
)
from persona_stream.serving.scorers import Scored, Scorers, Scores
from persona_stream.serving.views import item_view, named, rfc3339, user_view
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ModelError
from persona_stream.vocabulary.ids import new_id
from persona_stream.vocabulary.messages import Decision
from tables.counters import Floats
from tables.covisits import co_visited
from tables.features.blocks import NOTHING, CounterBlock, Request, RowsBuilder
from tables.features.blocks import Rows as FeatureRows
from tables.features.plan import Plan, plan_of
from tables.users import UserState
from tables.users import codec as user_codec

SIMILAR_SHOWN = 10
LOGGED_ITEMS = 25
"""How many items of an answer are logged with their features: what lies beyond is hardly ever seen."""

logger = logging.getLogger(__name__)


class Question(Struct):
    """A user, the candidates, and what the replica holds of them."""

    user: str
    items: list[str]
    rows: Rows
    state: UserState | None
    inputs: FeatureRows
    """What the person's part of the features is computed of, ..."""
    counters: CounterBlock
    """... and the item's."""
    features: Floats
    """float32 `[n, width]`."""
    as_of_ms: int
    slot: str = ""
    context: Mapping[str, Any] = {}
    asked: str = ""
    """`rank` or `recommend`."""
    withheld: list[str] = []
    """Items that may not be shown, left out of `items`."""
    due_s: float = math.inf
    """Monotonic time by which the answer is due."""


class Engine:
    """Answers from the replica; logs every decision."""

    def __init__(self, settings: Settings, replica: Replica, decisions: DecisionLog) -> None:
        self._settings = settings
        self.replica = replica
        self._decisions = decisions
        self.plan: Plan = plan_of(settings)
        self.scorers = Scorers(replica, self.plan.features)
        self._positions = PositionsNow(replica, settings.partitions)
        self.trending_items = Trending(replica)

    def answer_from(self, replica: Replica) -> None:
        """Make every answer from another replica from now on: in one step, between two requests."""
        self.replica = replica
        self._positions = PositionsNow(replica, self._settings.partitions)
        self.scorers.follow(replica)
        self.trending_items.follow(replica)

    async def start(self) -> None:
        """Begin to follow models and trends."""
        await self.scorers.start()
        await self.trending_items.start()

    async def stop(self) -> None:
        """Stop following."""
        await self.trending_items.stop()
        await self.scorers.stop()

    def rank(self, request: RankRequest, *, started_s: float) -> Answer:
        """Order the caller's items for a user. `started_s`: monotonic time when the request came in."""
        as_of_ms = self.replica.now_ms()
        items, withheld = self.shown(list(dict.fromkeys(request.items)), as_of_ms)
        # What the caller gives for each item has one for those that are withheld or repeated, too.
        context = request.context if items == request.items else _aligned(request.context, request.items, items)
        question = self.question(request.user, items, as_of_ms, ordered=True, context=context, slot=request.slot)
        question.asked, question.withheld = "rank", withheld
        question.due_s = self._due_s(request.deadline_ms, started_s)
        return self._answer(question, request.k or len(items), explain=request.explain)

    def recommend(
        self, user: str, *, k: int, slot: str, context: dict[str, Any], deadline_ms: int | None, started_s: float
    ) -> Answer:
        """Find candidates for a user and order them."""
        as_of_ms = self.replica.now_ms()
        items, withheld = self.shown(self._found(user), as_of_ms)
        question = self.question(user, items, as_of_ms, ordered=False, context=context, slot=slot)
        question.asked, question.withheld = "recommend", withheld
        question.due_s = self._due_s(deadline_ms, started_s)
        return self._answer(question, k, explain=False)

    def candidates(self, user: str, as_of_ms: int) -> list[str]:
        """Items to consider for a user that may be shown."""
        return self.shown(self._found(user), as_of_ms)[0]

    def _found(self, user: str) -> list[str]:
        """Items for a user; the catalogue's first where nothing has happened yet."""
        found = candidates_for(self._state(user) or UserState(), self.replica.items, self.trending_items.top)
        return found or list(islice(self.replica.catalogue, MAX_CANDIDATES))

    def freshness(self) -> Freshness:
        """How fresh the answers are."""
        return freshness(self.replica, self.scorers.model)

    def user(self, user: str) -> UserView | None:
        """What is held of a user; None if nothing is."""
        state = self._state(user)
        if state is None:
            return None
        return user_view(self.replica, self.plan, user, state, self._settings.session_gap_ms, self.replica.now_ms())

    def item(self, item: str) -> ItemView | None:
        """What is held of an item; None if nothing is."""
        return item_view(self.replica, self.plan, item, self.similar(item, k=SIMILAR_SHOWN).items)

    def similar(self, item: str, *, k: int) -> ItemList:
        """Items that users were with next to this one of late, rarer ones first among equals."""
        columns, as_of_ms = self.replica.items, self.replica.now_ms()
        rows, counts = columns.neighbours(int(columns.rows([item])[0]))
        scores = counts / np.sqrt(np.maximum(columns.totals(rows), 1))
        return self._item_list(columns, rows, scores.tolist(), k, as_of_ms)

    async def trending(self, *, window: WindowName, segment: str, k: int) -> ItemList:
        """The most active items of a window, or of a segment's week."""
        # Those of now: another replica may be asked by the time the rows are known.
        columns, as_of_ms = self.replica.items, self.replica.now_ms()
        rows, scores = await asyncio.to_thread(self.trending_items.ranked, columns, window, segment, as_of_ms)
        return self._item_list(columns, rows, scores, k, as_of_ms)

    def _item_list(self, columns: ItemColumns, rows: Rows, scores: list[float], k: int, as_of_ms: int) -> ItemList:
        ids = columns.ids
        named = zip([ids[row] for row in rows.tolist()], scores, strict=True)
        # Ties by item: rows are in the order in which this server first read of them, another's are not.
        ranked = sorted(named, key=lambda pair: (-pair[1], pair[0]))
        shown = set(self.shown([item for item, _ in ranked], as_of_ms)[0])
        listed = [ScoredItem(item, score) for item, score in ranked if item in shown]
        return ItemList(listed[:k], rfc3339(as_of_ms))

    def _state(self, user: str) -> UserState | None:
        raw = self.replica.users.get(user)
        return user_codec.decode(raw) if raw is not None else None

    def shown(self, items: list[str], as_of_ms: int) -> tuple[list[str], list[str]]:
        """Items that may be shown, and those hidden, deleted or expired; one that the catalogue lacks may be shown."""
        restricted = self.replica.restricted
        if not restricted:
            return items, []
        withheld = {
            item: None
            for item in items
            if (entry := restricted.get(item)) is not None and not entry.may_be_shown(as_of_ms)
        }
        return [item for item in items if item not in withheld], list(withheld)

    def question(
        self,
        user: str,
        items: list[str],
        as_of_ms: int,
        *,
        ordered: bool,
        context: Mapping[str, Any] = NOTHING.context,
        slot: str = "",
    ) -> Question:
        """Gather the features of a user with items as of an event time; `ordered`: the items' order is a feature."""
        columns, lookups = self.replica.items, self.replica.lookups
        state = self._state(user)
        known = state or UserState()
        asked = RowsBuilder(lookups.attributes, self._settings.session_gap_ms)
        places = np.arange(len(items)) if ordered else None
        request = Request(context, slot, lookups.traits(user))
        asked.add(user, known, items, as_of_ms, positions=places, request=request)
        inputs, rows = asked.rows(), columns.rows(items)
        counters = columns.counters(rows, columns.rows(co_visited(known)), as_of_ms)
        features = np.hstack([self.plan.person(inputs), self.plan.item(counters)])
        return Question(user, items, rows, state, inputs, counters, features, as_of_ms, slot, context)

    def _due_s(self, deadline_ms: int | None, started_s: float) -> float:
        return started_s + (deadline_ms or self._settings.deadline_ms) / 1000

    def _answer(self, question: Question, k: int, *, explain: bool) -> Answer:
        scored, fallback = self.score(question)
        order, scores = best(scored, k)
        ts_ms = time.time_ns() // 1_000_000
        decision_id = new_id(ts_ms)
        ranked = [
            RankedItem(question.items[at], score, rank)
            for rank, (at, score) in enumerate(zip(order.tolist(), scores, strict=True), start=1)
        ]
        if explain:
            for item, at in zip(ranked, order.tolist(), strict=True):
                item.features = named(self.plan.features.names, question.features[at])
        self._log(decision_id, ts_ms, question, scored, fallback, ranked, order, k)
        return Answer(decision_id, ranked, scored.model, scored.policy, fallback, rfc3339(question.as_of_ms))

    def score(self, question: Question) -> tuple[Scored, str | None]:
        """Scores of the question's items in the best way there is, and why it is no better one."""
        if question.state is None and not self.scorers.knows_strangers:
            return self._trending_scores(question), "unknown-user"
        if time.monotonic() > question.due_s:
            return self._history_scores(question), "deadline"
        try:
            scored = self.scorers.score(question.features)
        except ModelError as error:
            logger.error("scoring failed: %s", error)
            return self._history_scores(question), "model-error"
        if scored is None:
            return self._history_scores(question), "no-model"
        return scored, None if self.replica.error is None else "replica-stopped"

    def _history_scores(self, question: Question) -> Scored:
        return Scored(history_scores(history_features(question.inputs, question.counters)), "history", "")

    def _trending_scores(self, question: Question) -> Scored:
        columns = self.replica.items
        segment = self._segment(question)
        by_segment = columns.segment_scores(question.rows, segment, question.as_of_ms) if segment else None
        overall = columns.weighted_totals(question.rows, KIND_WEIGHTS)
        scores: Scores = overall
        # What the segment did with other items has no part in it.
        if by_segment is not None and by_segment.any():
            scores = by_segment + overall / (1.0 + overall.max(initial=0.0))
        if not scores.any():
            # Nothing is known of any: the caller's order (the catalogue's, for a recommendation) stands.
            return Scored(np.zeros(len(question.items)), "given-order", "")
        return Scored(scores, "trending", "")

    def _segment(self, question: Question) -> str:
        field = self._settings.segment_field
        profile = self.replica.profile(question.user)
        for source in (question.context, profile.traits if profile else {}):
            if isinstance(source.get(field), str):
                return str(source[field])
        return question.state.segment if question.state else ""

    def _log(
        self,
        decision_id: str,
        ts_ms: int,
        question: Question,
        scored: Scored,
        fallback: str | None,
        ranked: list[RankedItem],
        order: Rows,
        k: int,
    ) -> None:
        if self._settings.generation:
            # The log of decisions is of what users were shown: training and experiments go by it.
            return
        logged = ranked[:LOGGED_ITEMS]
        # Headers that tell a country come in any case.
        fields = self.plan.context_fields
        told_context = {k: v for k, v in question.context.items() if k in fields or k.lower() in fields}
        told = question.context.get(self._settings.segment_field)
        state = self._positions()
        self._decisions.add(
            Decision(
                id=decision_id,
                user=question.user,
                ts_ms=ts_ms,
                as_of_ms=question.as_of_ms,
                slot=question.slot,
                policy=scored.policy,
                model=scored.model,
                fallback=fallback,
                items=[item.item for item in logged],
                scores=[item.score for item in logged],
                # The order follows from the scores alone: each item stood where it stood with certainty.
                propensities=[1.0] * len(logged),
                feature_hash=self.plan.features.hash,
                features=question.features[order[:LOGGED_ITEMS]].tobytes(),
                candidates=len(question.items),
                asked=question.asked,
                k=k,
                ranked=question.items,
                counted=self.replica.items.totals(question.rows).tolist() if state.unsettled else [],
                withheld=question.withheld,
                context=told_context,
                segment=told if isinstance(told, str) else None,
                user_applied=question.state.applied if question.state else -1,
                learner=self.scorers.learned,
                state=state,
            )
        )


def _aligned(context: Mapping[str, Any], items: Sequence[str], shown: Sequence[str]) -> dict[str, Any]:
    """A context whose lists of one value an item are those of the items shown."""
    at = {item: place for place, item in reversed(list(enumerate(items)))}
    kept = [at[item] for item in shown]
    return {
        name: [value[at] for at in kept] if isinstance(value, list) and len(value) == len(items) else value
        for name, value in context.items()
    }


def best(scored: Scored, k: int) -> tuple[Rows, list[float]]:
    """Places of the `k` highest scores, highest first and equal ones as given, and their scores as answered."""
    order = np.argsort(-scored.scores, kind="stable")[:k]
    return order, np.round(scored.scores[order], 6).tolist()
