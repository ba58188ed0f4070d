"""Where today's answer differs from the one logged, step by step in the order in which an answer is made."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from persona_stream.explain.again import Again
from persona_stream.explain.past import Past
from persona_stream.explain.rules import told_limit
from persona_stream.serving.candidates import MAX_CANDIDATES
from persona_stream.vocabulary.messages import Decision
from tables.counters import Floats

TOLERANCE = 2e-6
"""Relative. Scores are logged with six digits, and another processor may round the last bit of a float32 otherwise."""
_BY_ITEM = frozenset({"ranker", "online", "history"})
"""Policies whose score of an item does not depend on the rest of the list."""


Limits = Mapping[str, Mapping[str, Any]]


class Difference(Struct, omit_defaults=True):
    """One thing that is not as it was. `step`: state, candidates, definition, policy, features, scores or order."""

    step: str
    detail: str
    item: str | None = None
    feature: str | None = None
    logged: float | None = None
    today: float | None = None


def differences(decision: Decision, past: Past, again: Again, expected: dict[str, str]) -> list[Difference]:
    """All that differs; `expected`: candidates that today's code finds for the user, and why."""
    return [
        *_of_state(decision, past),
        *_of_candidates(decision, past, again, expected),
        *_of_definition(decision, again),
        *_of_policy(decision, again),
        *_of_features(decision, again),
        *_of_scores(decision, again),
        *_of_order(decision, again),
    ]


def _of_state(decision: Decision, past: Past) -> Iterator[Difference]:
    held = past.user.applied if past.user is not None else -1
    if decision.state is not None and held != decision.user_applied:
        yield Difference(
            "state",
            f"the user had been folded up to offset {decision.user_applied}, the log gives a user folded up to {held}",
        )


def _of_candidates(decision: Decision, past: Past, again: Again, expected: dict[str, str]) -> Iterator[Difference]:
    if decision.state is None:
        return
    for item in sorted(set(decision.withheld) ^ set(again.withheld)):
        if item in past.superseded:
            past.notes.append(
                f"the catalogue has only a newer version of {item}: whether it was withheld can't be told"
            )
        elif item in decision.withheld:
            yield Difference("candidates", "was withheld, and may be shown by the catalogue of then", item)
        else:
            yield Difference("candidates", "was ranked, and may not be shown by the catalogue of then", item)
    considered = {*decision.ranked, *decision.withheld}
    if decision.asked == "recommend" and len(considered) < MAX_CANDIDATES:
        for item in sorted(expected.keys() - considered):
            yield Difference("candidates", f"was not considered, and would be: {expected[item]}", item)


def _of_definition(decision: Decision, again: Again) -> Iterator[Difference]:
    then, today = decision.feature_hash, again.features.hash
    if then != today:
        yield Difference("definition", f"features were defined as {then} then and are as {today} today")
    limits = {one.name: one.told() for one in again.placed.limits}
    # Their order, too, is what they mean.
    if list(decision.limits.items()) != list(limits.items()):
        yield Difference("definition", f"limits were {_told(decision.limits)} then and are {_told(limits)} today")


def _told(limits: Limits) -> str:
    return "; ".join(f"{name}: {told_limit(fields)}" for name, fields in limits.items()) or "none"


def _of_policy(decision: Decision, again: Again) -> Iterator[Difference]:
    for name, then, today in (
        ("policy", decision.policy, again.scored.policy),
        ("model", decision.model, again.scored.model),
        ("fallback", decision.fallback or "none", again.fallback or "none"),
    ):
        if then != today:
            yield Difference("policy", f"{name} was {then or 'none'} and is {today or 'none'} today")


def _of_features(decision: Decision, again: Again) -> Iterator[Difference]:
    place = {item: at for at, item in enumerate(again.question.items)}
    columns = {name: at for at, name in enumerate(again.features.names)}
    for row, item in enumerate(decision.items):
        today = again.question.features[place[item]]
        for column, name in enumerate(again.names):
            if name in columns:
                then, now = float(again.logged[row, column]), float(today[columns[name]])
                if not is_close(then, now):
                    yield Difference("features", f"{name} was {then:.6g} and is {now:.6g} today", item, name, then, now)


def _of_scores(decision: Decision, again: Again) -> Iterator[Difference]:
    if not is_whole(decision) and decision.policy not in _BY_ITEM:
        return
    today = scores_today(again)
    for item, then in zip(decision.items, decision.scores, strict=True):
        if not is_close(then, today[item]):
            detail = f"the score was {then:.6g} and is {today[item]:.6g} today"
            yield Difference("scores", detail, item, None, then, today[item])


def _of_order(decision: Decision, again: Again) -> Iterator[Difference]:
    if not is_whole(decision) and decision.policy not in _BY_ITEM:
        return
    today = [again.question.items[at] for at in again.placed.order.tolist()]
    if today == decision.items:
        return
    first = next(
        (rank for rank, pair in enumerate(zip(decision.items, today, strict=False)) if pair[0] != pair[1]),
        min(len(today), len(decision.items)),
    )
    then_item, now_item = (items[first] if first < len(items) else "nothing" for items in (decision.items, today))
    yield Difference("order", f"rank {first + 1} was {then_item} and is {now_item} today")


def is_whole(decision: Decision) -> bool:
    """Whether all that was ranked is known."""
    return decision.state is not None or decision.candidates == len(decision.items)


def scores_today(again: Again) -> dict[str, float]:
    """Today's score of each item, rounded as answers are."""
    return dict(zip(again.question.items, np.round(again.scored.scores, 6).tolist(), strict=True))


def is_close(then: float, now: float) -> bool:
    """Whether two numbers are the same but for rounding; two that are missing are."""
    return bool(are_close(then, now))


def are_close(then: float | Floats, now: float | Floats) -> NDArray[np.bool_]:
    """`is_close` of each pair of two arrays."""
    return np.isclose(then, now, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
