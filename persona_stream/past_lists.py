"""Lists of the past, from a log of events: what was shown to whom, what came of it, and how simple rules order it."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.evaluation import Interval, bootstrap_interval, hit_rate_at_k, ndcg_at_k
from persona_stream.vocabulary.events import Event, grade_of
from tables.attribution import Attribution

PLACES = 10
GIVEN, POPULARITY, TOUCHED = "the order given", "popularity", "touched last, then given"
RULES = (GIVEN, POPULARITY, TOUCHED)
_PENDING = 8

Numbers = NDArray[np.float64]


class PastList(Struct):
    """One list, with what was known just before it."""

    at: int
    """Its place in the log."""
    user: str
    ts_ms: int
    items: list[str]
    slot: str
    context: dict[str, Any]
    grades: dict[str, int]
    """Item -> the highest grade of what the user did with it within the window."""
    by_rule: dict[str, Numbers]
    """Rule -> scores, float64 `[n]`."""

    def labels(self) -> NDArray[np.int64]:
        """The grade of each item, 0 where it was left alone."""
        return np.array([self.grades.get(item, 0) for item in self.items], dtype=np.int64)


class Measured(Struct, frozen=True):
    """How well lists were ordered: means with 95 % bootstrap intervals."""

    ndcg: Interval
    hit_rate: Interval


def past_lists(events: Sequence[Event], attribution: Attribution) -> list[PastList]:
    """The lists of a log in event-time order that something was chosen from.

    An outcome belongs to the list that it names (`decision_id`: of the decision, or of the impression's event), else to
    those with the item that `attribution` says, as in the stream.
    """
    lists: list[PastList] = []
    pending: dict[str, list[tuple[str, PastList]]] = defaultdict(list)
    known = _Known()
    for at, event in enumerate(events):
        if event.type == "impression":
            shown = known.list_of(at, event)
            lists.append(shown)
            pending[event.user] = [*pending[event.user], (event.decision_id or event.id, shown)][-_PENDING:]
            continue
        grade = grade_of(event)
        if event.item is not None and grade:
            for answered in _answered(pending[event.user], event, attribution):
                answered.grades[event.item] = max(grade, answered.grades.get(event.item, 0))
        known.note(event, grade)
    return [one for one in lists if one.labels().any() and len(one.items) > 1]


def _answered(pending: Sequence[tuple[str, PastList]], event: Event, attribution: Attribution) -> Sequence[PastList]:
    found = [
        shown
        for name, shown in reversed(pending)
        if 0 <= int(event.ts) - shown.ts_ms <= attribution.window_of(shown.slot)
        and (event.decision_id == name or (event.decision_id is None and event.item in shown.items))
    ]
    return found[:1] if event.decision_id is not None else attribution.touched(found)


class _Known:
    """What simple rules go by, as of the events so far."""

    def __init__(self) -> None:
        self._chosen: dict[str, int] = defaultdict(int)
        self._touched: dict[tuple[str, str], int] = {}
        """(user, item) -> place in the log of the latest touch."""
        self._count = 0

    def note(self, event: Event, grade: int) -> None:
        """An event passed."""
        self._count += 1
        if event.item is not None:
            self._chosen[event.item] += grade > 0
            self._touched[event.user, event.item] = self._count

    def list_of(self, at: int, event: Event) -> PastList:
        """A list shown, and how the rules order it."""
        items = list(dict.fromkeys(event.items or [str(event.item)]))
        touched = np.array([self._touched.get((event.user, item), 0) for item in items], dtype=np.float64)
        place = np.arange(len(items), dtype=np.float64)
        by_rule = {
            GIVEN: -place,
            POPULARITY: np.array([self._chosen[item] for item in items], dtype=np.float64),
            TOUCHED: touched * (len(items) + 1) - place,
        }
        return PastList(at, event.user, int(event.ts), items, event.slot or "", event.context or {}, {}, by_rule)


def measure(lists: Sequence[PastList], scores: Sequence[Numbers], *, seed: int) -> Measured:
    """How well scores order lists, beside what came of them."""
    labels = np.concatenate([one.labels() for one in lists])
    sizes = np.array([len(one.items) for one in lists])
    flat = np.concatenate(scores)
    return Measured(
        bootstrap_interval(ndcg_at_k(labels, flat, sizes, PLACES), seed=seed),
        bootstrap_interval(hit_rate_at_k(labels, flat, sizes, PLACES), seed=seed),
    )


def shuffled(event: Event, raw: dict[str, Any], seed: int) -> dict[str, Any]:
    """An impression whose list is in a random order, what its context gives for each item with it.

    The same at each run: so that nothing can be learned from the order in which items were displayed.
    """
    items = raw.get("items")
    if event.type != "impression" or not items:
        return raw
    order = np.random.default_rng([seed, *event.id.encode()]).permutation(len(items)).tolist()
    context = {
        name: [value[at] for at in order] if isinstance(value, list) and len(value) == len(items) else value
        for name, value in (raw.get("context") or {}).items()
    }
    return raw | {"items": [items[at] for at in order], "context": context}
