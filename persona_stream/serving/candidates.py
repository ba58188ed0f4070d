"""Which items to consider for a user: the user's own, those others took next to them, and what is trending."""

import asyncio
from collections.abc import Sequence

import numpy as np

from persona_stream.serving.item_columns import BLANK, ItemColumns, Rows
from persona_stream.serving.replica import Replica
from persona_stream.vocabulary.events import KINDS
from tables.counters import WINDOW_INDEX, WINDOWS
from tables.covisits import co_visited
from tables.users import UserState, recent_items

TRENDING_KEPT = 200
REFRESH_S = 1.0
"""Trending items are counted again this often: it reads every item."""
MAX_CANDIDATES = 500
OWN_ITEMS = 256
"""So many of them at most are the user's own latest: there must be room for others."""

_WEIGHT = {"impression": 0.0, "view": 1.0, "click": 2.0, "add_to_cart": 4.0, "purchase": 6.0, "other": 0.5}
KIND_WEIGHTS = tuple(_WEIGHT[kind] for kind in KINDS)
"""What an event is worth as a sign of popularity."""


class Trending:
    """The items with the most activity of late, overall and by segment."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._top: tuple[ItemColumns, Rows] | None = None
        """The columns that were counted, and their rows."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to refresh."""
        self._task = asyncio.create_task(self._keep_fresh())

    async def stop(self) -> None:
        """Stop refreshing; the last list stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def follow(self, replica: Replica) -> None:
        """Count in another replica from now on."""
        self._replica = replica

    @property
    def top(self) -> Rows:
        """Rows of the most active items in 7 days, best first."""
        if self._top is None or self._top[0] is not self._replica.items:
            # Counted in a replica that is no longer asked: its rows are other items here.
            return self.refresh(self._replica.now_ms())
        return self._top[1]

    def ranked(self, columns: ItemColumns, window: str, segment: str, as_of_ms: int) -> tuple[Rows, list[float]]:
        """Rows and scores by activity in a window, or in a segment's week where one is named. Reads every item."""
        scores = columns.segment_scores(columns.all_rows(), segment, as_of_ms) if segment else None
        if scores is None:
            scores = columns.popularity(WINDOWS[WINDOW_INDEX[window]], as_of_ms, KIND_WEIGHTS)
        top = _largest(scores)
        return top, scores[top].tolist()

    def refresh(self, as_of_ms: int) -> Rows:
        """Count again what is trending as of a time."""
        columns = self._replica.items
        top, _ = self.ranked(columns, "7d", "", as_of_ms)
        self._top = (columns, top)
        return top

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.to_thread(self.refresh, self._replica.now_ms())
            await asyncio.sleep(REFRESH_S)


def candidates_for(state: UserState, columns: ItemColumns, trending: Rows) -> list[str]:
    """Items to rank for a user, without repeats: their own, neighbours of their latest, trending ones."""
    found = dict.fromkeys(recent_items(state, OWN_ITEMS))
    for item in co_visited(state):
        rows, counts = columns.neighbours(item)
        found |= dict.fromkeys(_names(columns, rows[np.argsort(-counts, kind="stable")]))
    found |= dict.fromkeys(_names(columns, trending))
    return list(found)[:MAX_CANDIDATES]


def _names(columns: ItemColumns, rows: Sequence[int] | Rows) -> list[str]:
    return [columns.ids[row] for row in rows if row != BLANK]


def _largest(scores: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Rows:
    kept = min(TRENDING_KEPT, len(scores))
    top = np.argpartition(-scores, kept - 1)[:kept] if kept else np.zeros(0, dtype=np.int64)
    top = top[scores[top] > 0]
    return top[np.argsort(-scores[top], kind="stable")].astype(np.int64)
