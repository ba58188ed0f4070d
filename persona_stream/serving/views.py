"""What is held of one user or one item, as `/v1/users/{user}` and `/v1/items/{item}` show it."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from persona_stream.serving.replica import Replica
from persona_stream.serving.schemas import ItemView, ScoredItem, UserView
from persona_stream.vocabulary.events import KINDS
from tables.counters import WINDOWS, Floats, stack_panes, window_counts
from tables.features.blocks import Request, RowsBuilder
from tables.features.plan import Plan
from tables.users import UserState

HISTORY_SHOWN = 50
"""How many of the user's latest visits are shown."""


def rfc3339(ts_ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def told_numbers(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as JSON can tell them: None for what is missing, for it has no NaN."""
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}


def named(names: Sequence[str], row: Floats) -> dict[str, float | None]:
    """Features by name."""
    return told_numbers(dict(zip(names, row.tolist(), strict=True)))


def user_view(replica: Replica, plan: Plan, user: str, state: UserState, gap_ms: int, as_of_ms: int) -> UserView:
    """What is held of a user, as of an event time."""
    asked = RowsBuilder(replica.lookups.attributes, gap_ms)
    asked.add(user, state, [], as_of_ms, request=Request(traits=replica.lookups.traits(user)))
    row = plan.of_users(asked.rows())[0]
    panes = stack_panes([state.panes])
    profile = replica.profile(user)
    return UserView(
        user=user,
        features=named(plan.user_names, row),
        history=[
            {"item": item, "type": KINDS[kind], "ts": ts_ms}
            for ts_ms, item, kind in reversed(state.visits[-HISTORY_SHOWN:])
        ],
        windows={
            window.name: _named(window_counts(panes, np.array([as_of_ms]), window)[0].tolist()) for window in WINDOWS
        },
        sessions=state.sessions_before + len(state.sessions),
        segment=state.segment,
        traits=profile.traits if profile else {},
        as_of=rfc3339(as_of_ms),
    )


def item_view(replica: Replica, plan: Plan, item: str, similar: list[ScoredItem]) -> ItemView | None:
    """What is held of an item, as of now; None if neither events nor the catalogue know it."""
    as_of_ms, columns = replica.now_ms(), replica.items
    entry = replica.catalogue.get(item)
    if item not in columns and entry is None:
        return None
    rows = columns.rows([item])
    row = plan.item(columns.counters(rows, np.zeros(len(rows), dtype=np.int64), as_of_ms))[0]
    return ItemView(
        item=item,
        # Co-visits are with a user's latest items: without a user there are none.
        features={name: v for name, v in named(plan.item_names, row).items() if name not in plan.covisit_names},
        windows={window.name: _named(columns.windows(int(rows[0]), as_of_ms, window)) for window in WINDOWS},
        attributes=entry.attributes if entry else {},
        shown=entry is None or entry.may_be_shown(as_of_ms),
        similar=similar,
        as_of=rfc3339(as_of_ms),
    )


def _named(counts: list[int]) -> dict[str, int]:
    return dict(zip(KINDS, counts, strict=True))
