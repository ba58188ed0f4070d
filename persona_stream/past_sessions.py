"""Sessions of the past, from a log of events: what users chose next, and what simple rules would have recommended.

For logs that tell of no lists: baskets, plays, ratings. A question is asked at the beginning of each session, and
whatever is chosen in it is right.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from heapq import nsmallest

import numpy as np
from msgspec import Struct

from models.evaluation import bootstrap_interval, hit_rate_at_k, ndcg_at_k
from persona_stream.past_lists import PLACES, POPULARITY, Measured
from persona_stream.vocabulary.events import Event, grade_of

PERSONAL = "chosen most by the user"
SESSION_RULES = (PERSONAL, POPULARITY)
MIN_ITEMS_KNOWN = 3
"""Of a user with fewer items so far nobody asks: there is next to nothing to go by."""


class PastSession(Struct):
    """One session, with what was known just before it."""

    at: int
    """The place in the log of its first outcome."""
    user: str
    ts_ms: int
    chosen: set[str]
    by_rule: dict[str, list[str]]
    """Rule -> what it recommends, best first."""


def past_sessions(events: Sequence[Event], gap_ms: int) -> list[PastSession]:
    """The sessions with an outcome of a log in event-time order, of users of whom something is known."""
    known = _Known()
    sessions: list[PastSession] = []
    open_: dict[str, tuple[int, PastSession | None]] = {}
    for at, event in enumerate(events):
        item, grade, ts_ms = event.item, grade_of(event), int(event.ts)
        if item is not None and grade:
            last_ms, session = open_.get(event.user, (-gap_ms - 1, None))
            if ts_ms - last_ms > gap_ms:
                session = known.session_of(at, event)
                sessions += [session] if session else []
            if session is not None:
                session.chosen.add(item)
            open_[event.user] = ts_ms, session
        if item is not None and event.type != "impression":
            known.note(event.user, item, is_chosen=grade > 0)
    return sessions


class _Known:
    """What simple rules go by, as of the events so far."""

    def __init__(self) -> None:
        self._chosen: Counter[str] = Counter()
        self._of_user: dict[str, dict[str, list[int]]] = defaultdict(dict)
        """User -> item -> how often it was chosen, and the place of its latest touch."""
        self._count = 0

    def note(self, user: str, item: str, *, is_chosen: bool) -> None:
        """A touch passed."""
        self._count += 1
        self._chosen[item] += is_chosen
        held = self._of_user[user].setdefault(item, [0, 0])
        held[0] += is_chosen
        held[1] = self._count

    def session_of(self, at: int, event: Event) -> PastSession | None:
        """A session that begins, and what the rules recommend."""
        own = self._of_user[event.user]
        if len(own) < MIN_ITEMS_KNOWN:
            return None
        personal = nsmallest(PLACES, own, key=lambda item: (-own[item][0], -own[item][1]))
        popular = nsmallest(PLACES, self._chosen, key=lambda item: (-self._chosen[item], item))
        return PastSession(at, event.user, int(event.ts), set(), {PERSONAL: personal, POPULARITY: popular})


def measure_sessions(sessions: Sequence[PastSession], recommended: Sequence[Sequence[str]], *, seed: int) -> Measured:
    """How well recommendations, best first, say what was chosen. What was not recommended counts as ranked last."""
    labels, scores, sizes = [], [], []
    for session, items in zip(sessions, recommended, strict=True):
        # Places that were not filled are filled wrongly: what was missed stands behind all of them.
        told = np.zeros(PLACES, dtype=np.int64)
        told[: len(items)] = [item in session.chosen for item in items[:PLACES]]
        missed = len(session.chosen) - int(told.sum())
        labels.append(np.concatenate([told, np.ones(missed, dtype=np.int64)]))
        sizes.append(PLACES + missed)
        scores.append(-np.arange(sizes[-1], dtype=np.float64))
    flat = np.concatenate(labels), np.concatenate(scores), np.array(sizes)
    return Measured(
        bootstrap_interval(ndcg_at_k(*flat, PLACES), seed=seed),
        bootstrap_interval(hit_rate_at_k(*flat, PLACES), seed=seed),
    )
