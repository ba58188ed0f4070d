"""What features are computed from, by the column: the counters of n users or items, and everything else about rows.

A `CounterBlock` holds the counters of n keys of a table. `Rows` holds questions: each asks about one user and a list of
items at one moment, and each of its items is a row. The stream gathers the questions of a slice, each before its event
is applied; a server gathers one. Both are evaluated by the same plan.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, repeat
from typing import Any, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from persona_stream.vocabulary.events import KINDS
from tables.counters import (
    SKETCH,
    SPANS,
    TOTALS,
    WINDOWS,
    Longs,
    Panes,
    Times,
    all_window_counts,
    stack_longs,
    stack_panes,
    window_counts,
)
from tables.features.attributes import AttributeColumns
from tables.features.user_columns import History, Shown, Touches
from tables.users import Impression, UserState, latest_interest, open_session
from tables.visits import RECENT_KEPT

HISTORY_KEPT = RECENT_KEPT
"""So many of the user's latest visits are looked at for what their items are like."""
SESSIONS_SEEN = 8

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]
Selection = NDArray[np.bool_]
"""Kinds that are counted together, bool `[len(KINDS)]`."""
Selections = NDArray[np.bool_]
"""k of them, bool `[k, len(KINDS)]`."""
Sketches = NDArray[np.uint8]
_VISIT_BYTES = 24
_NO_SESSIONS = [0] * (3 * SESSIONS_SEEN)
T = TypeVar("T", bound=np.generic)


class CounterBlock:
    """The counters of n keys. `as_of_ms` is int64 `[n]`, or `[1]` for all."""

    def __init__(
        self,
        panes: Panes,
        longs: Longs,
        as_of_ms: Times,
        *,
        session: Longs | None = None,
        covisits: Times | None = None,
    ) -> None:
        self.panes = panes
        self.longs = longs
        self.as_of_ms = as_of_ms
        self.session: Longs = np.zeros((len(longs), 3), dtype=np.int64) if session is None else session
        """Of users, int64 `[n, 3]`: the open session's start and last time and its events; zeros without one."""
        self.covisits: Times = np.zeros(len(longs), dtype=np.int64) if covisits is None else covisits
        """Of items, int64 `[n]`: how many of their latest co-visits were with the user's latest items."""

    @cached_property
    def counts(self) -> Numbers:
        """Events by window, all time behind the windows, and by kind: float64 `[(windows + 1) * kinds, n]`."""
        n = len(self.longs)
        counts = np.empty((len(WINDOWS) + 1, len(KINDS), n))
        counts[:-1] = all_window_counts(self.panes, self.as_of_ms)
        counts[-1] = self.longs.T[TOTALS:]
        return counts.reshape((len(WINDOWS) + 1) * len(KINDS), n)

    @property
    def sketches(self) -> Sketches:
        """Of the different items of users, or users of items: uint8 `[n, REGISTERS]`."""
        return np.ascontiguousarray(self.longs[:, SKETCH:TOTALS]).view(np.uint8)

    def in_span(self, name: str) -> Numbers:
        """Events in a window of `SPANS`, by kind: float64 `[n, kinds]`."""
        counts: Numbers = window_counts(self.panes, self.as_of_ms, SPANS[name]).astype(np.float64)
        return counts


class Request(Struct, frozen=True):
    """What a question brings along beside the user and the items."""

    context: Mapping[str, Any] = {}
    slot: str = ""
    traits: Mapping[str, Any] = {}


NOTHING = Request()


class Rows:
    """Questions and their rows, as columns; made by `RowsBuilder`."""

    def __init__(self, gathered: "RowsBuilder") -> None:
        self.attributes = gathered.attributes
        self._asked = asked = gathered.asked
        self.as_of_ms: Times = np.array([one.as_of_ms for one in asked], dtype=np.int64)
        session = np.array([one.open_session for one in asked], dtype=np.int64).reshape(-1, 3)
        panes, longs = stack_panes([gathered.panes]), stack_longs([gathered.longs])
        self.users = CounterBlock(panes, longs, self.as_of_ms, session=session)
        self.items = [one.items for one in asked]
        self.requests = [one.request for one in asked]
        self.names = [one.user for one in asked]
        self.sizes: Indices = np.array([len(items) for items in self.items], dtype=np.int64)
        self.position: Indices = np.full(len(gathered), -1, dtype=np.int64)
        """By row the 0-based place in the list, -1 without one."""
        for first, places in gathered.positions:
            self.position[first : first + len(places)] = places
        self.is_latest: Flags = np.zeros(len(self.position), dtype=np.bool_)
        """By row whether the user's latest interaction was with the item, not buying it."""
        self.is_latest[gathered.latest] = True
        self.touches = Touches(gathered.touches, gathered.touched, gathered.touch_counts)
        self.derived: dict[tuple[str, str], object] = {}
        """What kinds work out once for several features."""

    def __len__(self) -> int:
        return len(self.position)

    @cached_property
    def question(self) -> Indices:
        """The question of each row, int64 `[n]`."""
        return np.arange(len(self.sizes)).repeat(self.sizes)

    @cached_property
    def first(self) -> Indices:
        """The first row of each question."""
        return self.sizes.cumsum() - self.sizes

    def by_row(self, of_questions: NDArray[T]) -> NDArray[T]:
        """What is known of each question, at its rows: `[..., questions]` to `[..., n]`, or as it is if it is one
        question, whose numbers are those of all rows."""
        return of_questions if len(self.sizes) == 1 else of_questions.take(self.question, -1)

    def by_touched(self, of_questions: NDArray[T]) -> NDArray[T]:
        """The same, at the rows that `touches` has segments of: `[..., segments]`, or as it is."""
        return of_questions if len(self.sizes) == 1 else of_questions.take(self.question.take(self.touches.row), -1)

    def of_questions(self, chosen: Flags) -> Indices:
        """How many rows of each question are chosen: bool `[n]` to int64 `[questions]`."""
        if len(self.sizes) == 1:
            return np.add.reduce(chosen, keepdims=True)
        return np.bincount(self.question.compress(chosen), minlength=len(self.sizes))

    @cached_property
    def item(self) -> Indices:
        """The row of each item in the attribute columns, int64 `[n]`."""
        return self.attributes.rows(chain.from_iterable(self.items), len(self))

    @cached_property
    def sessions(self) -> Longs:
        """The latest sessions of each user, newest first: int64 `[3, SESSIONS_SEEN, questions]`, padded by zeros."""
        held = np.array([one.sessions for one in self._asked], dtype=np.int64)
        return np.ascontiguousarray(held.reshape(-1, SESSIONS_SEEN, 3).T)

    @cached_property
    def history(self) -> History:
        """What the users visited of late."""
        packed = [one.visits for one in self._asked]
        count = np.array([len(held) // _VISIT_BYTES for held in packed], dtype=np.int64)
        # Of arrays in one piece, elements are taken without a copy of all.
        ts_ms, kind, item = np.ascontiguousarray(np.frombuffer(b"".join(packed), dtype=np.int64).reshape(-1, 3).T)
        user = np.arange(len(count)).repeat(count)
        age_ms = (self.as_of_ms if len(count) == 1 else self.as_of_ms.take(user)) - ts_ms
        age = count.cumsum().repeat(count) - 1 - np.arange(len(user))
        return History(user=user, ts_ms=ts_ms, age_ms=age_ms, kind=kind, item=item, age=age, count=count)

    @cached_property
    def shown(self) -> Shown:
        """What the users were shown of late."""
        lists = [shown for one in self._asked for shown in one.lists]
        sizes = np.array([len(items) for _, _, items in lists], dtype=np.int64)
        names = list(chain.from_iterable([items for _, _, items in lists]))
        user = np.arange(len(self._asked)).repeat([len(one.lists) for one in self._asked])
        age_ms = self.as_of_ms.take(user) - np.array([ts_ms for ts_ms, _, _ in lists], dtype=np.int64)
        return Shown(
            user=user.repeat(sizes),
            age_ms=age_ms.repeat(sizes),
            item=self.attributes.rows(names, len(names)),
            row=np.fromiter(chain.from_iterable(self._rows_shown()), dtype=np.int64, count=len(names)),
        )

    def _rows_shown(self) -> Iterator[Iterable[int]]:
        """Of each question, list by list, the rows of the items shown; -1 for those that are not asked about."""
        for first, one in zip(self.first.tolist(), self._asked, strict=True):
            if one.lists:
                row_of = dict(zip(one.items, range(first, first + len(one.items)), strict=True))
                yield map(row_of.get, chain.from_iterable([items for _, _, items in one.lists]), repeat(-1))


class _Asked(Struct, frozen=True, gc=False):
    """A question, with copies of what is held of its user as of its moment, counters apart."""

    user: str
    items: Sequence[str]
    as_of_ms: int
    request: Request
    open_session: tuple[int, ...]
    sessions: list[int]
    """The latest SESSIONS_SEEN, newest first: start, last time and events of each; zeros where there are no more."""
    visits: bytes
    """`RecentVisits.packed`"""
    lists: list[Impression]


class RowsBuilder:
    """Gathers questions: copies what is held of each user as of its moment. `rows()` turns all into columns."""

    def __init__(self, attributes: AttributeColumns, gap_ms: int) -> None:
        self.attributes = attributes
        self._gap_ms = gap_ms
        self.panes = bytearray()
        self.longs = bytearray()
        self.asked: list[_Asked] = []
        self.positions: list[tuple[int, Indices]] = []
        """(first row, places) of the lists that have an order."""
        self.latest: list[int] = []
        self.touches: list[int] = []
        self.touched: list[int] = []
        self.touch_counts: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(
        self,
        user: str,
        state: UserState,
        items: Sequence[str],
        as_of_ms: int,
        *,
        positions: Indices | None = None,
        request: Request = NOTHING,
        touches: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """A question about distinct `items`. `positions`: of each its place in the list that is shown, -1: in none.

        `touches`: all of the user's, from whoever keeps them; else those of the items are looked for.
        """
        self.panes += state.panes
        self.longs += state.longs
        sessions = list(chain.from_iterable(state.sessions[: -SESSIONS_SEEN - 1 : -1]))
        self.asked.append(
            _Asked(
                user,
                items,
                as_of_ms,
                request,
                tuple(open_session(state, as_of_ms, self._gap_ms)),
                sessions + _NO_SESSIONS[len(sessions) :],
                state.recent_visits(self.attributes).packed(),
                list(state.pending),
            )
        )
        if positions is not None:
            self.positions.append((self._count, positions))
        self._add_touches(state, items, state.touches_of(items) if touches is None else touches)
        self._count += len(items)

    def rows(self) -> Rows:
        """All that was gathered."""
        return Rows(self)

    def _add_touches(self, state: UserState, items: Sequence[str], held: Mapping[str, Sequence[int]]) -> None:
        interest = latest_interest(state)
        if not held:
            # Nor can one of them be the latest.
            return
        for row, item in enumerate(items, self._count):
            touches = held.get(item)
            if touches is not None:
                self.touches += touches
                self.touched.append(row)
                self.touch_counts.append(len(touches))
                if item == interest:
                    self.latest.append(row)


def selection(kinds: Sequence[str]) -> Selection:
    """Kinds of events; none named: all that users do, and being shown something is nothing done.

    >>> selection(["click"]).tolist(), int(selection([]).sum())
    ([False, False, True, False, False, False], 5)
    """
    wanted = kinds or [kind for kind in KINDS if kind != "impression"]
    return np.array([kind in wanted for kind in KINDS])


def selections(declared: Iterable[Sequence[str]]) -> Selections:
    """One for each of some lists of kinds."""
    return np.array([selection(kinds) for kinds in declared])
