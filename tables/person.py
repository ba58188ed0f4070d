"""The user's side of feature rows: raw inputs gathered from `UserState`, evaluated by the column.

The stream gathers one row for each example of a slice, before its event is applied; a server gathers one row for each
candidate. Both end in the same functions of `tables.features`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from persona_stream.vocabulary.events import KIND_INDEX
from tables.counters import Floats, Longs, stack_longs, stack_panes
from tables.features import (
    PERSON_WIDTH,
    RECENT_ITEMS,
    TOUCH_HEAD,
    TOUCHES_KEPT,
    USER_FEATURES,
    cross_columns,
    user_columns,
)
from tables.users import KIND_BITS, UserState, latest_interest, open_session, recent_items

_PAIR_WIDTH = TOUCH_HEAD + TOUCHES_KEPT
_NEVER: list[int] = []
_KIND_MASK = (1 << KIND_BITS) - 1
_PURCHASE = KIND_INDEX["purchase"]


def person_columns(state: UserState, items: Sequence[str], as_of_ms: int, gap_ms: int, *, ordered: bool) -> Floats:
    """User and user x item features of one user with n items, float32 `[n, PERSON_WIDTH]`.

    `ordered`: the items came in an order that was or will be shown, so their places are a feature.
    """
    session = open_session(state, as_of_ms, gap_ms)
    as_of = np.array([as_of_ms])
    user = user_columns(stack_panes([state.panes]), stack_longs([state.longs]), np.array([session]), as_of)
    n = len(items)
    interest = latest_interest(state)
    latest = np.array([item == interest for item in items], dtype=np.bool_)
    touches = state.touches_of(items)
    pair = _pair_block([touches.get(item, _NEVER) for item in items])
    position = np.arange(n) if ordered else np.full(n, -1)
    cross = cross_columns(pair, np.array(session[:1]), latest, position, as_of)
    person = np.empty((n, PERSON_WIDTH), dtype=np.float32)
    person[:, : len(USER_FEATURES)] = user
    person[:, len(USER_FEATURES) :] = cross
    return person


class PersonRows:
    """Raw inputs of many users' rows, copied before their events are applied; `columns()` evaluates all at once."""

    def __init__(self) -> None:
        self._panes: list[bytes] = []
        self._longs: list[bytes] = []
        self._sessions: list[list[int]] = []
        self._as_of_ms: list[int] = []
        self._user_of_row: list[int] = []
        self._touches: list[list[int]] = []
        self._latest: list[bool] = []
        self._positions: list[int] = []

    def __len__(self) -> int:
        return len(self._touches)

    def add_user(self, state: UserState, as_of_ms: int, gap_ms: int) -> None:
        """Copy a user's state as of now; the rows added next are this user's."""
        self._panes.append(bytes(state.panes))
        self._longs.append(bytes(state.longs))
        self._sessions.append(list(open_session(state, as_of_ms, gap_ms)))
        self._as_of_ms.append(as_of_ms)

    def add_row(self, state: UserState, item: str, *, position: int = -1) -> None:
        """Copy what the user had with an item."""
        self._user_of_row.append(len(self._as_of_ms) - 1)
        self._touches.append(list(state.touches.get(item, _NEVER)))
        self._latest.append(item == latest_interest(state))
        self._positions.append(position)

    def columns(self) -> Floats:
        """User and user x item features, float32 `[rows, PERSON_WIDTH]`."""
        sessions, as_of_ms = np.array(self._sessions), np.array(self._as_of_ms)
        user = user_columns(stack_panes(self._panes), stack_longs(self._longs), sessions, as_of_ms)
        owner: NDArray[np.int64] = np.array(self._user_of_row)
        pair = _pair_block(self._touches)
        cross = cross_columns(
            pair,
            sessions[owner, 0],
            np.array(self._latest),
            np.array(self._positions),
            as_of_ms[owner],
        )
        return np.hstack([user[owner], cross])


def co_visited(state: UserState) -> list[str]:
    """The items whose co-visits count for this user: the latest few, newest first."""
    return recent_items(state, RECENT_ITEMS)


def _pair_block(touches: Sequence[list[int]]) -> Longs:
    """What `cross_columns` takes of each item: int64 `[n, TOUCH_HEAD + TOUCHES_KEPT]`, from its touches."""
    block = np.zeros((len(touches), _PAIR_WIDTH), dtype=np.int64)
    for row, held in enumerate(touches):
        if held:
            bought = [touch >> KIND_BITS for touch in held if touch & _KIND_MASK == _PURCHASE]
            latest = [touch >> KIND_BITS for touch in held[-TOUCHES_KEPT:]]
            interest_ms = next((touch >> KIND_BITS for touch in reversed(held) if touch & _KIND_MASK != _PURCHASE), 0)
            head = [len(held), len(bought), interest_ms, bought[-1] if bought else 0]
            block[row, : TOUCH_HEAD + len(latest)] = head + latest
    return block
