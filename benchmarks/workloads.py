"""What every contender computes: the event, the folds of W1 and W3, the windows of W2.

All contenders run these functions unchanged, so that the table compares engines and not Python.
States are plain JSON values (lists and dicts of numbers): every engine can store them as they are.

W1  keyed state: per user ``[count, value_sum, last_ts_ms]``.
W2  event-time hopping windows, 5 minutes long, a new one each minute: counts per user and per item.
W3  fifteen features an event from the user's own state, computed before the event is applied:
    (a) alone, (b) followed by one River prediction and one River update.
"""

import math
from typing import Any, Literal

import msgspec
from river import linear_model, optim

Workload = Literal["w1", "w2", "w3a", "w3b"]
WORKLOADS: tuple[Workload, ...] = ("w1", "w2", "w3a", "w3b")

WINDOW_MS = 300_000
STEP_MS = 60_000
WINDOWS_PER_EVENT = WINDOW_MS // STEP_MS

LATENESS_MS = 60_000
"""Allowed lateness of W2's windows per user; the log is out of order by half of it at most."""

MERGED_LATENESS_MS = 1_800_000
"""Allowed lateness of W2's windows per item in engines whose watermark does not follow the source
partition: after re-keying, partitions meet that were read up to some minutes of event time apart, and a
lateness of a minute would drop a good part of a replayed log. With this one every engine counts every
event."""

LABEL_TYPES = frozenset({"click", "purchase"})

SESSION_GAP_MS = 1_800_000
HEAT_HALF_LIFE_MS = 600_000.0
RECENT_ITEMS = 10
DAY_MS = 86_400_000
FEATURE_COUNT = 15

KeyedState = list[Any]
"""W1's state: ``[count: int, value_sum: float, last_ts_ms: int]``."""
UserState = dict[str, Any]
"""W3's state, see :func:`new_user`."""


class Event(msgspec.Struct, gc=False):
    """One event of the log; fields that no workload reads (slot, context, ...) are skipped."""

    id: str
    type: str
    user: str
    item: str
    ts: int
    value: float = 0.0


_decoder = msgspec.json.Decoder(Event)


def decode(raw: bytes) -> Event:
    """Decode one record's value. Raises msgspec.ValidationError for anything that is not an event."""
    return _decoder.decode(raw)


def label(event: Event) -> bool:
    """W3's target: did the user click or buy?"""
    return event.type in LABEL_TYPES


def count_event(state: KeyedState | None, event: Event) -> KeyedState:
    """W1's fold. Returns a new state: engines that keep snapshots may hold on to the old one."""
    if state is None:
        return [1, event.value, event.ts]
    last_ts = state[2]
    return [state[0] + 1, state[1] + event.value, event.ts if event.ts > last_ts else last_ts]


def window_starts(ts_ms: int) -> range:
    """Starts (ms) of the half-open windows ``[start, start + WINDOW_MS)`` that hold ``ts_ms``."""
    newest = ts_ms - ts_ms % STEP_MS
    return range(newest - WINDOW_MS + STEP_MS, newest + STEP_MS, STEP_MS)


def new_user() -> UserState:
    """W3's state of a user before the first event; times in epoch ms, heat as of ``last_ts``."""
    return {
        "events": 0,
        "clicks": 0,
        "carts": 0,
        "purchases": 0,
        "spend": 0.0,
        "first_ts": 0,
        "last_ts": 0,
        "session_start": 0,
        "session_events": 0,
        "heat": 0.0,
        "recent": [],
        "feature_sum": 0.0,
    }


def features(state: UserState, event: Event) -> dict[str, float]:
    """The fifteen features of ``event``, from what was known before it; scaled here, not by River.

    Nothing of the event but its time and item is read, so that its type (the label) can't leak.
    """
    log1p = math.log1p
    n, clicks, purchases = state["events"], state["clicks"], state["purchases"]
    ts = event.ts
    gap_ms = max(ts - state["last_ts"], 0) if n else SESSION_GAP_MS
    same_session = gap_ms < SESSION_GAP_MS
    recent = state["recent"]
    day = 2.0 * math.pi * (ts % DAY_MS) / DAY_MS
    return {
        "events": log1p(n) * 0.1,
        "clicks": log1p(clicks) * 0.1,
        "carts": log1p(state["carts"]) * 0.1,
        "purchases": log1p(purchases) * 0.1,
        "click_rate": (clicks + 2.0) / (n + 10.0),
        "purchase_rate": (purchases + 0.5) / (n + 10.0),
        "spend": log1p(state["spend"]) * 0.1,
        "mean_spend": log1p(state["spend"] / (purchases + 1.0)) * 0.1,
        "recency": log1p(gap_ms / 1000.0) * 0.1,
        "tenure": log1p(max(ts - state["first_ts"], 0) / 1000.0) * 0.1 if n else 0.0,
        "session_events": log1p(state["session_events"]) * 0.1 if same_session else 0.0,
        "session_age": log1p(max(ts - state["session_start"], 0) / 1000.0) * 0.1 if same_session else 0.0,
        "heat": log1p(state["heat"] * 0.5 ** (gap_ms / HEAT_HALF_LIFE_MS)) * 0.1,
        "seen_item": recent.count(event.item) / RECENT_ITEMS,
        "time_of_day": math.sin(day),
    }


def apply(state: UserState, event: Event) -> UserState:
    """W3's fold: add ``event`` to ``state`` in place (the caller owns it) and return it."""
    ts, last_ts = event.ts, state["last_ts"]
    gap_ms = max(ts - last_ts, 0)
    if state["events"] == 0:
        state["first_ts"] = ts
        gap_ms = SESSION_GAP_MS
    if gap_ms >= SESSION_GAP_MS:
        state["session_start"], state["session_events"] = ts, 0
    state["events"] += 1
    state["session_events"] += 1
    state["heat"] = state["heat"] * 0.5 ** (gap_ms / HEAT_HALF_LIFE_MS) + 1.0
    if ts > last_ts:
        state["last_ts"] = ts
    kind = event.type
    if kind == "click":
        state["clicks"] += 1
    elif kind == "add_to_cart":
        state["carts"] += 1
    elif kind == "purchase":
        state["purchases"] += 1
        state["spend"] += event.value
    recent = state["recent"]
    recent.append(event.item)
    if len(recent) > RECENT_ITEMS:
        del recent[0]
    return state


class Learner:
    """W3 (b)'s model: one River logistic regression a process, scored before it learns.

    ``learned`` and ``log_loss_sum`` (nats) say afterwards that each event was learned once.
    """

    def __init__(self) -> None:
        """A model that knows nothing yet."""
        # River annotates only a part of its methods
        self._model: Any = linear_model.LogisticRegression(optim.SGD(0.05))
        self.learned = 0
        self.log_loss_sum = 0.0

    def score_and_learn(self, row: dict[str, float], target: bool) -> float:
        """Probability of ``target`` before learning from it."""
        p = float(self._model.predict_proba_one(row)[True])
        self._model.learn_one(row, target)
        self.learned += 1
        self.log_loss_sum -= math.log(max(p if target else 1.0 - p, 1e-9))
        return p

    @property
    def log_loss(self) -> float:
        """Mean progressive log loss in nats."""
        return self.log_loss_sum / max(self.learned, 1)


def featurize(state: UserState, event: Event, learner: Learner | None) -> UserState:
    """W3's whole step: features, optionally River, then the fold. Mutates and returns ``state``.

    The running sum of all features stays in the state: it must come out equal in every engine,
    which proves that each event saw the state that its predecessors left.
    """
    row = features(state, event)
    if learner is not None:
        learner.score_and_learn(row, label(event))
    state["feature_sum"] += sum(row.values())
    return apply(state, event)


def new_learner(workload: Workload) -> Learner | None:
    """A learner for W3 (b), None for every other workload."""
    return Learner() if workload == "w3b" else None
