"""`persona-stream explain`: why an answer was what it was, and whether today's code gives the same."""

import asyncio
import time

import msgspec

from persona_stream.cli.cluster import reachable, with_topic_partitions
from persona_stream.cli.console import err, out, print_table, quiet_libraries
from persona_stream.cli.progress_bar import progress_bar
from persona_stream.cli.running import connected
from persona_stream.explain.explanation import Explanation, ItemThen, explain
from persona_stream.explain.finding import find_decision
from persona_stream.serving.schemas import UserView
from persona_stream.vocabulary.config import Settings

HISTORY_SHOWN = 5
DIFFERENCES_SHOWN = 20


def run_explain(settings: Settings, decision_id: str, *, user: str | None, as_json: bool) -> int:
    """Print the explanation; returns 1 if today's code gives another answer.

    Raises DecisionNotFoundError where the log has no such decision.
    """
    quiet_libraries()
    started_s = time.monotonic()
    explanation = asyncio.run(_explain(connected(settings), decision_id, user))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(explanation)).decode())
    else:
        _print(explanation)
        err.print(f"{explanation.records_folded:,} records folded in {time.monotonic() - started_s:.1f} s")
    return 0 if explanation.same else 1


async def _explain(settings: Settings, decision_id: str, user: str | None) -> Explanation:
    async with reachable(settings):
        settings = await with_topic_partitions(settings)
        with progress_bar("looking for the decision") as on_progress:
            decision = await find_decision(settings, decision_id, user=user, on_progress=on_progress)
        return await explain(settings, decision, progress_bar)


def _print(explanation: Explanation) -> None:
    told = explanation.decision
    rows = [
        ("decision", told.id),
        ("made", f"{told.made}, as of {told.as_of} in event time"),
        ("asked", f"{told.asked or 'not told'} for {told.user}{f', slot {told.slot}' if told.slot else ''}"),
        ("policy", f"{told.policy}, model {told.model or 'none'}, fallback {told.fallback or 'none'}"),
        ("items", f"{len(explanation.items)} shown of {told.candidates} candidates{_propensities(explanation.items)}"),
    ]
    for name, text in [*rows, *_user_rows(explanation.user)]:
        out.print(f"{name:<10}{text}", markup=False)
    for rule in explanation.rules:
        out.print(f"{'rule':<10}{rule.rule}: {f'{rule.item}, ' if rule.item else ''}{rule.detail}", markup=False)
    for note in explanation.notes:
        out.print(f"{'note':<10}{note}", markup=False)
    _print_items(explanation.items)
    _print_verdict(explanation)


def _propensities(items: list[ItemThen]) -> str:
    told = ", ".join(dict.fromkeys(f"{item.propensity:g}" for item in items))
    return f", propensity {told}" if told else ""


def _user_rows(user: UserView | None) -> list[tuple[str, str]]:
    if user is None:
        return [("user", "nothing was held of the user")]
    visits = ", ".join(f"{visit['type']} {visit['item']}" for visit in user.history[:HISTORY_SHOWN])
    week = ", ".join(f"{count} {kind}" for kind, count in user.windows["7d"].items() if count)
    sessions = f"{user.sessions} session{'' if user.sessions == 1 else 's'}"
    rows = [("user", f"{sessions}; in 7 d: {week or 'nothing'}")]
    rows += [("latest", visits)] if visits else []
    rows += [("segment", user.segment)] if user.segment else []
    return rows


def _print_items(items: list[ItemThen]) -> None:
    models = list(items[0].scores_by_model) if items else []
    headings = ["rank", "item", "score", *models, "origin", "what adds most"]
    rows = [
        [
            str(item.rank),
            item.item,
            f"{item.score:.6f}",
            *(f"{item.scores_by_model[model]:.6f}" for model in models),
            item.origin or "given",
            ", ".join(f"{one.feature} {one.adds:+.3f}" for one in item.contributions),
        ]
        for item in items
    ]
    if rows:
        print_table(headings, rows, right=frozenset({"rank", "score", *models}))


def _print_verdict(explanation: Explanation) -> None:
    if explanation.same:
        out.print("today's code gives the same answer.")
        return
    steps = ", ".join(dict.fromkeys(difference.step for difference in explanation.differences))
    out.print(f"today's code gives another answer. What differs: {steps}.")
    for difference in explanation.differences[:DIFFERENCES_SHOWN]:
        where = f"{difference.item}: " if difference.item is not None else ""
        out.print(f"  {difference.step:<11} {where}{difference.detail}", markup=False)
    if len(explanation.differences) > DIFFERENCES_SHOWN:
        out.print(f"  and {len(explanation.differences) - DIFFERENCES_SHOWN:,} more; --json has all.")
