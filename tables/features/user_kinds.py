"""Kinds over a user's sessions and latest visits."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from persona_stream.vocabulary.events import KIND_INDEX
from tables.counters import Longs
from tables.features.blocks import SESSIONS_SEEN, CounterBlock, Numbers, Rows
from tables.features.kind import (
    COUNT_EDGES,
    HOURS_EDGES,
    SHARE_EDGES,
    Duration,
    Evaluate,
    Kind,
    Place,
    duration_ms,
    log_hours,
    spread,
)

_CLICK = KIND_INDEX["click"]


class OfUser(Kind, frozen=True, kw_only=True):
    """What kinds about the user alone share."""

    def place(self) -> Place:
        """The user's."""
        return "user"


class Session(OfUser, frozen=True, kw_only=True):
    """The session that is open: log1p of its events (`depth`), or of hours since it began (`duration`).

    >>> told('depth = {kind = "session", measure = "depth"}', [("u1", "view", "i1", 50), ("u1", "view", "i2", 55)])
    depth    1.0986
    """

    kind: ClassVar[str] = "session"
    over_counters: ClassVar[bool] = True
    measure: Literal["depth", "duration"]

    def usual_edges(self) -> tuple[float, ...]:
        """As counts or ages are cut."""
        return COUNT_EDGES if self.measure == "depth" else HOURS_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Session"]) -> Evaluate:
        """Both measures are at hand."""

        def evaluate(users: CounterBlock) -> Numbers:
            start_ms, _, events = users.session.T
            depth = np.log1p(events)
            duration = log_hours(users.as_of_ms - start_ms) * (events > 0)
            return spread([depth if one.measure == "depth" else duration for one in declared], len(events))

        return evaluate


class SessionAverage(OfUser, frozen=True, kw_only=True):
    """log1p of a mean over the latest sessions, the open one too: of their events (`depth`), of their hours
    (`duration`), or of the hours between one and the next (`gap`).

    >>> told('depth = {kind = "session_average", measure = "depth"}',
    ...      [("u1", "view", "i1", -300), ("u1", "view", "i1", -299), ("u1", "view", "i2", 55)])
    depth    0.9163
    """

    kind: ClassVar[str] = "session_average"
    measure: Literal["depth", "duration", "gap"]
    sessions: Annotated[int, Meta(ge=2, le=SESSIONS_SEEN)] = SESSIONS_SEEN
    """So many of the latest."""

    def usual_edges(self) -> tuple[float, ...]:
        """As counts or ages are cut."""
        return COUNT_EDGES if self.measure == "depth" else HOURS_EDGES

    @classmethod
    def compile(cls, declared: Sequence["SessionAverage"]) -> Evaluate:
        """All measures of so many sessions together."""

        numbers = {one.sessions for one in declared}

        def evaluate(rows: Rows) -> Numbers:
            means = {number: _session_means(rows.sessions[:, :number]) for number in numbers}
            return spread([means[one.sessions][one.measure] for one in declared], len(rows.sizes))

        return evaluate


def _session_means(sessions: Longs) -> dict[str, Numbers]:
    """Each measure, by user."""
    # Where there are no more sessions all three are 0: they add nothing.
    start_ms, last_ms, events = sessions
    starts_ms, lasts_ms, all_events = np.add.reduce(sessions, 1)
    is_held = events > 0
    count = np.add.reduce(is_held, 0)
    between_ms = np.add.reduce(start_ms[:-1] * is_held[1:] - last_ms[1:], 0)
    any_count = np.maximum(count, 1)
    return {
        "depth": np.log1p(all_events / any_count),
        "duration": log_hours((lasts_ms - starts_ms) / any_count),
        "gap": log_hours(between_ms / np.maximum(count - 1, 1)),
    }


class SessionPattern(OfUser, frozen=True, kw_only=True):
    """How the user goes about the open session: log1p of the items touched (`items`), the share of touches that came
    back to one touched before (`returning`), the share that were clicks (`clicking`), or log1p of the mean seconds
    between touches (`pace`). The latest 64 touches are looked at.

    >>> told('back = {kind = "session_pattern", measure = "returning"}',
    ...      [("u1", "view", "i1", 50), ("u1", "view", "i2", 51), ("u1", "click", "i1", 52), ("u1", "view", "i1", 53)])
    back     0.5
    """

    kind: ClassVar[str] = "session_pattern"
    measure: Literal["items", "returning", "clicking", "pace"]

    def usual_edges(self) -> tuple[float, ...]:
        """As counts or shares are cut."""
        return SHARE_EDGES if self.measure in {"returning", "clicking"} else COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["SessionPattern"]) -> Evaluate:
        """All measures from the same touches."""

        def evaluate(rows: Rows) -> Numbers:
            history, users = rows.history, len(rows.sizes)
            start_ms = history.by_visit(rows.users.session[:, 0])
            inside = (start_ms > 0) & (history.ts_ms >= start_ms)
            chosen = np.array([inside, inside & history.is_last, inside & (history.kind == _CLICK)])
            touches, distinct, clicks = history.of_users(chosen)
            # Touches of the session are the latest of all: the first of them stands that far before the last.
            several = (touches > 1).nonzero()[0]
            last = history.count.cumsum().take(several) - 1
            passed_ms = np.zeros(users, dtype=np.int64)
            passed_ms[several] = history.ts_ms.take(last) - history.ts_ms.take(last - touches.take(several) + 1)
            between = np.maximum(touches - 1, 1) * 1000
            measures = {
                "items": np.log1p(distinct),
                "returning": (touches - distinct) / np.maximum(touches, 1),
                "clicking": clicks / np.maximum(touches, 1),
                "pace": np.log1p(passed_ms / between),
            }
            return spread([measures[one.measure] for one in declared], users)

        return evaluate


class DistinctItems(OfUser, frozen=True, kw_only=True):
    """log1p of how many different items were among the user's latest 64 touches, at most so long ago.

    >>> told('breadth = {kind = "distinct_items", within = "2h"}',
    ...      [("u1", "view", "i1", 0), ("u1", "view", "i2", 1), ("u1", "view", "i1", 2), ("u1", "view", "i3", -200)])
    breadth  1.0986
    """

    kind: ClassVar[str] = "distinct_items"
    within: Duration
    """At most so long ago."""

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["DistinctItems"]) -> Evaluate:
        """One count for all."""
        spans_ms = np.array([[duration_ms(one.within)] for one in declared])

        def evaluate(rows: Rows) -> Numbers:
            history = rows.history
            return np.log1p(history.of_users(history.is_last & (history.age_ms < spans_ms)))

        return evaluate
