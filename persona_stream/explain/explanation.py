"""The explanation of a decision, as data: what was answered, on which state, by which rules, and whether it would be so
again."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from persona_stream.explain.again import Again, ask_again
from persona_stream.explain.compare import Difference, differences, is_close, scores_today
from persona_stream.explain.cut import cut_of
from persona_stream.explain.origins import origins
from persona_stream.explain.past import Past, Show
from persona_stream.explain.rules import Rule, rules_applied
from persona_stream.serving.history_rule import NAMES, WEIGHTS, history_features
from persona_stream.serving.schemas import UserView
from persona_stream.serving.scorers import ONLINE
from persona_stream.serving.views import rfc3339, told_numbers, user_view
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Decision, Positions

CONTRIBUTIONS_SHOWN = 5


class Told(Struct):
    """What the decision itself tells."""

    id: str
    user: str
    made: str
    as_of: str
    asked: str
    slot: str
    policy: str
    model: str
    fallback: str | None
    candidates: int
    k: int
    feature_hash: str
    user_applied: int
    learner: list[int]
    state: Positions | None


class Contribution(Struct):
    """What one feature adds to an item's score (`history`), or to its log-odds (`online`)."""

    feature: str
    value: float | None
    adds: float


class ItemThen(Struct):
    """One item shown."""

    item: str
    rank: int
    score: float
    score_today: float
    rank_today: int | None
    propensity: float
    origin: str
    """Why it was a candidate; empty where the caller gave it."""
    features: dict[str, float | None]
    """As logged."""
    features_today: dict[str, float | None]
    """Those that today's code gives otherwise."""
    scores_by_model: dict[str, float]
    contributions: list[Contribution]
    """The largest, where the score is a sum over features."""


class Explanation(Struct):
    """Why an answer was what it was, and whether today's code gives it again."""

    decision: Told
    user: UserView | None
    rules: list[Rule]
    items: list[ItemThen]
    differences: list[Difference]
    notes: list[str]
    """What could not be known, and what stands for it."""
    same: bool
    records_folded: int


async def explain(settings: Settings, decision: Decision, show: Show) -> Explanation:
    """Put the state of then together and ask again. Raises as `read_topic` does.

    `settings.partitions` must be the topics'.
    """
    past = Past(settings, decision, await cut_of(settings, decision), show)
    await past.restore()
    again = await ask_again(settings, decision, past)
    expected = origins(past)
    found = differences(decision, past, again, expected)
    if past.superseded_elsewhere and any(one.step == "features" for one in found):
        past.notes.append(
            f"of {past.superseded_elsewhere:,} other items of the catalogue only a newer version is kept: features that"
            " compare with them may be others"
        )
    user = None
    if past.user is not None:
        user = user_view(
            past.replica, again.engine.plan, decision.user, past.user, settings.session_gap_ms, decision.as_of_ms
        )
    return Explanation(
        decision=_told(decision),
        user=user,
        rules=rules_applied(decision, past),
        items=_items(decision, again, expected),
        differences=found,
        notes=past.notes,
        same=not found,
        records_folded=past.folded,
    )


def _told(decision: Decision) -> Told:
    fields = {name: getattr(decision, name) for name in Told.__struct_fields__ if name not in {"made", "as_of"}}
    return Told(made=rfc3339(decision.ts_ms), as_of=rfc3339(decision.as_of_ms), **fields)


def _items(decision: Decision, again: Again, expected: dict[str, str]) -> list[ItemThen]:
    today, question = scores_today(again), again.question
    place = {item: at for at, item in enumerate(question.items)}
    rank_today = {question.items[at]: rank for rank, at in enumerate(again.placed.order.tolist(), start=1)}
    other = "trending" if decision.asked == "recommend" else ""
    shown = []
    for row, item in enumerate(decision.items):
        at = place[item]
        logged = dict(zip(again.names, again.logged[row].tolist(), strict=False))
        now = dict(zip(again.features.names, question.features[at].tolist(), strict=True))
        shown.append(
            ItemThen(
                item=item,
                rank=row + 1,
                score=decision.scores[row],
                score_today=today[item],
                rank_today=rank_today.get(item),
                propensity=decision.propensities[row],
                origin=expected.get(item, other) if decision.asked != "rank" else "",
                features=told_numbers(logged),
                features_today=told_numbers(
                    {name: now[name] for name, then in logged.items() if name in now and not is_close(then, now[name])}
                ),
                scores_by_model={model: float(scores[at]) for model, scores in again.scored.parts.items()},
                contributions=_contributions(again, at),
            )
        )
    return shown


def _contributions(again: Again, at: int) -> list[Contribution]:
    if ONLINE in again.scored.parts:
        row = again.question.features[at : at + 1]
        added = again.engine.scorers.online().contributions(row)[0]
        return _largest(again.features.names, row[0].tolist(), added.tolist())
    if again.scored.policy == "history":
        of_rule = history_features(again.engine.gathered(again.question))[at].astype(np.float64)
        return _largest(NAMES, of_rule.tolist(), (of_rule * WEIGHTS).tolist())
    return []


def _largest(names: Sequence[str], values: Sequence[float], added: Sequence[float]) -> list[Contribution]:
    known = told_numbers(dict(zip(names, values, strict=True)))
    made = [Contribution(name, known[name], adds) for name, adds in zip(names, added, strict=True)]
    made.sort(key=lambda one: -abs(one.adds))
    return [one for one in made[:CONTRIBUTIONS_SHOWN] if one.adds]
