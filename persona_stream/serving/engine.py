"""The ranking engine: from a user and candidates to an answer, synchronously, on what the replica holds.

Questions that came together are answered together: work by the column costs hardly more for a few lists than for one.

An answer always comes. Where the best way can't be gone, the next plainer one is, and the answer says why:
models -> the user's own history -> trending in the user's segment -> the order given.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from persona_stream.serving.candidates import KIND_WEIGHTS, MAX_CANDIDATES, Trending, candidates_for
from persona_stream.serving.decisions import DecisionLog
from persona_stream.serving.freshness import Freshness, freshness
from persona_stream.serving.history_rule import history_features, history_scores
from persona_stream.serving.item_columns import ItemColumns, Rows
from persona_stream.serving.placing import Placed, place
from persona_stream.serving.positions import PositionsNow
from persona_stream.serving.questions import Gathered, Question, aligned, gather, gather_inputs
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
from tables.features.blocks import NOTHING
from tables.features.plan import Plan, plan_of
from tables.users import UserState
from tables.users import codec as user_codec

SIMILAR_SHOWN = 10
LOGGED_ITEMS = 25
"""How many items of an answer are logged with their features: what lies beyond is hardly ever seen."""

logger = logging.getLogger(__name__)


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
        return self.rank_all([(request, started_s)])[0]

    def rank_all(self, requests: Sequence[tuple[RankRequest, float]]) -> list[Answer]:
        """Order the items of several requests, each with the monotonic time when it came in."""
        as_of_ms = self.replica.now_ms()
        questions = [self._rank_question(request, as_of_ms, started_s) for request, started_s in requests]
        self._compute(questions)
        return [
            self._answer(question, scored, fallback, request.k or len(question.items), explain=request.explain)
            for (request, _), question, (scored, fallback) in zip(
                requests, questions, self.score_all(questions), strict=True
            )
        ]

    def _rank_question(self, request: RankRequest, as_of_ms: int, started_s: float) -> Question:
        items, withheld = self.shown(list(dict.fromkeys(request.items)), as_of_ms)
        # What the caller gives for each item has one for those that are withheld or repeated, too.
        context = request.context if items == request.items else aligned(request.context, request.items, items)
        return Question(
            user=request.user,
            items=items,
            as_of_ms=as_of_ms,
            ordered=True,
            context=context,
            slot=request.slot,
            asked="rank",
            withheld=withheld,
            due_s=self._due_s(request.deadline_ms, started_s),
        )

    def recommend(
        self, user: str, *, k: int, slot: str, context: dict[str, Any], deadline_ms: int | None, started_s: float
    ) -> Answer:
        """Find candidates for a user and order them."""
        as_of_ms = self.replica.now_ms()
        items, withheld = self.shown(self._found(user), as_of_ms)
        question = self.question(user, items, as_of_ms, ordered=False, context=context, slot=slot)
        question.asked, question.withheld = "recommend", withheld
        question.due_s = self._due_s(deadline_ms, started_s)
        return self._answer(question, *self.score(question), k, explain=False)

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
        rows, counts = columns.neighbours(item)
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
        """The features of a user with items as of an event time; `ordered`: the items' order is a feature."""
        question = Question(user, items, as_of_ms, ordered, slot=slot, context=context)
        self._compute([question])
        return question

    def gathered(self, question: Question) -> Gathered:
        """What the features of a question are computed of."""
        return gather(self.replica, [question], self._settings.session_gap_ms)

    def _compute(self, questions: Sequence[Question]) -> None:
        for one in questions:
            one.state = self._state(one.user)
        gathered = gather(self.replica, questions, self._settings.session_gap_ms)
        features = np.hstack([self.plan.person(gathered.inputs), self.plan.item(gathered.counters)])
        first = 0
        for one in questions:
            one.features = features[first : first + len(one.items)]
            first += len(one.items)

    def _due_s(self, deadline_ms: int | None, started_s: float) -> float:
        return started_s + (deadline_ms or self._settings.deadline_ms) / 1000

    def _answer(self, question: Question, scored: Scored, fallback: str | None, k: int, *, explain: bool) -> Answer:
        placed = self.place(question, scored, k)
        order = placed.order.tolist()
        ts_ms = time.time_ns() // 1_000_000
        decision_id = new_id(ts_ms)
        ranked = [
            RankedItem(question.items[at], score, rank)
            for rank, (at, score) in enumerate(zip(order, placed.scores, strict=True), start=1)
        ]
        if placed.limited:
            for item, at in zip(ranked, order, strict=True):
                item.limited = placed.limited.get(at)
        if explain:
            for item, at in zip(ranked, order, strict=True):
                item.features = named(self.plan.features.names, question.features[at])
        self._log(decision_id, ts_ms, question, scored, fallback, ranked, placed, k)
        return Answer(decision_id, ranked, scored.model, scored.policy, fallback, rfc3339(question.as_of_ms))

    def score(self, question: Question) -> tuple[Scored, str | None]:
        """Scores of the question's items in the best way there is, and why it is no better one."""
        return self.score_all([question])[0]

    def score_all(self, questions: Sequence[Question]) -> list[tuple[Scored, str | None]]:
        """As `score`, of each of some questions."""
        plainer = [self._without_models(question) for question in questions]
        left = [question for question, found in zip(questions, plainer, strict=True) if found is None]
        by_models = iter(self._by_models(left) if left else [])
        return [found or next(by_models) for found in plainer]

    def _without_models(self, question: Question) -> tuple[Scored, str] | None:
        """An answer where models are not to be asked."""
        if question.state is None and not self.scorers.knows_strangers:
            return self._trending_scores(question), "unknown-user"
        if time.monotonic() > question.due_s:
            return self._history_scores(question), "deadline"
        return None

    def _by_models(self, questions: Sequence[Question]) -> list[tuple[Scored, str | None]]:
        blocks = [question.features for question in questions]
        features = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        reason = "no-model"
        try:
            scored = self.scorers.score_lists(features, [len(block) for block in blocks])
        except ModelError as error:
            logger.error("scoring failed: %s", error)
            scored, reason = None, "model-error"
        if scored is None:
            return [(self._history_scores(question), reason) for question in questions]
        return [(one, None if self.replica.error is None else "replica-stopped") for one in scored]

    def place(self, question: Question, scored: Scored, k: int) -> Placed:
        """The first `k` of the question's items as they are answered: by score, within the limits of the slot."""
        gap_ms = self._settings.session_gap_ms
        inputs = partial(gather_inputs, self.replica, [question], gap_ms)
        return place(scored, k, self.plan.limits, question.slot, inputs)

    def _history_scores(self, question: Question) -> Scored:
        return Scored(history_scores(history_features(self.gathered(question))), "history", "")

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
        placed: Placed,
        k: int,
    ) -> None:
        if self._settings.generation:
            # The log of decisions is of what users were shown: training and experiments go by it.
            return
        logged, order = ranked[:LOGGED_ITEMS], placed.order[:LOGGED_ITEMS]
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
                # The order follows from scores and limits alone: each item stood where it stood with certainty.
                propensities=[1.0] * len(logged),
                feature_hash=self.plan.features.hash,
                features=question.features[order].tobytes(),
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
                limits=placed.told_limits(),
                limited={question.items[at]: name for at, name in placed.told_limited(LOGGED_ITEMS).items()},
            )
        )
