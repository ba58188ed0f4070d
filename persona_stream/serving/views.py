"""What is held of one user or one item, as `/v1/users/{user}` and `/v1/items/{item}` show it."""

from datetime import UTC, datetime

import numpy as np

from persona_stream.serving.replica import Replica
from persona_stream.serving.schemas import ItemView, ScoredItem, UserView
from persona_stream.vocabulary.events import KINDS
from tables.counters import WINDOWS, stack_panes, window_counts
from tables.features import FEATURE_NAMES, ITEM_FEATURES, USER_FEATURES
from tables.person import person_columns
from tables.users import UserState

HISTORY_SHOWN = 50
"""How many of the user's latest visits are shown."""


def rfc3339(ts_ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def user_view(replica: Replica, user: str, state: UserState, gap_ms: int, as_of_ms: int) -> UserView:
    """What is held of a user, as of an event time."""
    row = person_columns(state, [""], as_of_ms, gap_ms, ordered=False)[0, : len(USER_FEATURES)]
    panes = stack_panes([state.panes])
    profile = replica.profile(user)
    return UserView(
        user=user,
        features=dict(zip(FEATURE_NAMES, row.tolist(), strict=False)),
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


def item_view(replica: Replica, item: str, similar: list[ScoredItem]) -> ItemView | None:
    """What is held of an item, as of now; None if neither events nor the catalogue know it."""
    as_of_ms, columns = replica.now_ms(), replica.items
    entry = replica.catalogue.get(item)
    if item not in columns and entry is None:
        return None
    rows = columns.rows([item])
    features = columns.features(rows, np.zeros(0, dtype=np.int64), as_of_ms)[0]
    names = [feature.name for feature in ITEM_FEATURES if feature.name != "covisits"]
    return ItemView(
        item=item,
        # Co-visits are with a user's latest items: without a user there are none.
        features=dict(zip(names, features.tolist(), strict=False)),
        windows={window.name: _named(columns.windows(int(rows[0]), as_of_ms, window)) for window in WINDOWS},
        attributes=entry.attributes if entry else {},
        shown=entry is None or entry.may_be_shown(as_of_ms),
        similar=similar,
        as_of=rfc3339(as_of_ms),
    )


def _named(counts: list[int]) -> dict[str, int]:
    return dict(zip(KINDS, counts, strict=True))
