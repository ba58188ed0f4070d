"""The features: declared once, evaluated by the column for the stream, for serving and for training alike.

Three blocks of columns stand side by side, in the order of `FEATURES`: what is known of the user, of the user with
the item, and of the item. Counts enter as log1p and times as log1p of hours, so that linear learners need no scaler.
`FEATURE_HASH` names this very definition: models record it, and a model trained on another is refused.
"""

import hashlib

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.events import KIND_INDEX
from tables.counters import (
    FIRST_TS,
    LAST_TS,
    TOTALS,
    VALUE_COUNT,
    VALUE_MILLI,
    WINDOW_INDEX,
    Floats,
    Longs,
    Panes,
    Times,
    all_window_counts,
)
from tables.feature_set import FeatureSet

HOUR_MS = 3_600_000
NEVER_HOURS = 100_000.0
"""Stands for "it never happened": about eleven years, beyond any real age."""
TIMES, PURCHASES, LAST_INTEREST, LAST_PURCHASE, TOUCH_HEAD = range(5)
"""What is held of a user with an item, in order; the latest times with it follow from TOUCH_HEAD on."""
TOUCHES_KEPT = 8
"""How many of the user's latest times with an item are kept."""
RECENT_ITEMS = 5
"""How many of the user's latest items co-visits are looked up for."""

_COUNT_EDGES = (0.3, 0.9, 1.2, 1.5, 1.9, 2.3, 2.8, 3.4, 4.2, 5.2, 6.5)
_HOURS_EDGES = (0.02, 0.1, 0.5, 1.2, 2.2, 3.2, 4.2, 5.2, 6.2, 7.2, 9.0)
_RATIO_EDGES = (0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8)
_DECAY_EDGES = (0.02, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.5, 6.5)
_SIGNED_EDGES = (-3.0, -2.0, -1.2, -0.6, -0.2, 0.2, 0.6, 1.2, 2.0, 3.0, 4.5)
_PLACE_EDGES = (-0.5, 0.3, 0.9, 1.2, 1.5, 1.7, 1.9, 2.1, 2.4, 2.8, 3.3)


class Feature(Struct, frozen=True):
    """A feature's name, meaning and the edges that cut its range into bins for the online learner."""

    name: str
    meaning: str
    edges: tuple[float, ...]


USER_FEATURES = (
    Feature("user_events_1h", "log1p of the user's events in 1 h", _COUNT_EDGES),
    Feature("user_events_1d", "log1p of the user's events in 1 d", _COUNT_EDGES),
    Feature("user_events_7d", "log1p of the user's events in 7 d", _COUNT_EDGES),
    Feature("user_purchases_7d", "log1p of the user's purchases in 7 d", _COUNT_EDGES),
    Feature("user_clicks_1h", "log1p of the user's clicks in 1 h", _COUNT_EDGES),
    Feature("user_events_total", "log1p of all the user's events", _COUNT_EDGES),
    Feature("session_events", "log1p of events in the open session", _COUNT_EDGES),
    Feature("session_hours", "log1p of hours since the open session began", _HOURS_EDGES),
    Feature("user_idle_hours", "log1p of hours since the user's last event", _HOURS_EDGES),
)
CROSS_FEATURES = (
    Feature("pair_touches", "log1p of the user's times with the item", _COUNT_EDGES),
    Feature("pair_purchases", "log1p of the user's purchases of the item", _COUNT_EDGES),
    Feature(
        "pair_interest_idle_hours", "log1p of hours since the user last had to do with it, not buying", _HOURS_EDGES
    ),
    Feature("pair_bought_idle_hours", "log1p of hours since the user last bought it", _HOURS_EDGES),
    Feature("pair_decayed_60d", "the user's times with the item, each worth exp(-age / 60 d)", _DECAY_EDGES),
    Feature("pair_decayed_7d", "the user's times with the item, each worth exp(-age / 7 d)", _DECAY_EDGES),
    Feature("pair_interest_in_session", "1 if the user had to do with it in the open session, not buying", (0.5,)),
    Feature("pair_bought_in_session", "1 if the user bought it in the open session", (0.5,)),
    Feature("pair_cycle", "log of time since the purchase before over the mean gap, 0 if unknown", _SIGNED_EDGES),
    Feature("pair_is_latest", "1 if the user's latest interaction was with it, not buying", (0.5,)),
    Feature("position", "log1p of the 0-based place in the list given, -1 without one", _PLACE_EDGES),
)
ITEM_FEATURES = (
    Feature("item_events_5m", "log1p of the item's events in 5 min", _COUNT_EDGES),
    Feature("item_events_1h", "log1p of the item's events in 1 h", _COUNT_EDGES),
    Feature("item_events_1d", "log1p of the item's events in 1 d", _COUNT_EDGES),
    Feature("item_clicks_1h", "log1p of the item's clicks in 1 h", _COUNT_EDGES),
    Feature("item_clicks_7d", "log1p of the item's clicks in 7 d", _COUNT_EDGES),
    Feature("item_purchases_1d", "log1p of the item's purchases in 1 d", _COUNT_EDGES),
    Feature("item_purchases_7d", "log1p of the item's purchases in 7 d", _COUNT_EDGES),
    Feature("item_purchases_total", "log1p of all the item's purchases", _COUNT_EDGES),
    Feature("item_events_total", "log1p of all the item's events", _COUNT_EDGES),
    Feature("item_click_rate_7d", "clicks / impressions in 7 d, smoothed by a prior", _RATIO_EDGES),
    Feature("item_conversion", "purchases / (views + clicks), smoothed by a prior", _RATIO_EDGES),
    Feature("item_trend", "log of the 1 d rate over the 7 d rate", _SIGNED_EDGES),
    Feature("item_age_hours", "log1p of hours since the item's first event", _HOURS_EDGES),
    Feature("item_idle_hours", "log1p of hours since the item's last event", _HOURS_EDGES),
    Feature("item_value", "log1p of the mean value of the item's events", _COUNT_EDGES),
    Feature("covisits", "log1p of the item's latest co-visits with the user's latest items", _COUNT_EDGES),
)
FEATURES = USER_FEATURES + CROSS_FEATURES + ITEM_FEATURES
FEATURE_NAMES = tuple(feature.name for feature in FEATURES)
PERSON_WIDTH = len(USER_FEATURES) + len(CROSS_FEATURES)
"""Columns that depend on the user: the part of a row that a re-keyed event carries."""
FEATURE_HASH = hashlib.sha256(repr([(f.name, f.meaning, f.edges) for f in FEATURES]).encode()).hexdigest()[:16]

# A prior worth this many trials, at these rates, keeps an item seen twice from leading the list.
_PRIOR_TRIALS, _CLICK_PRIOR, _CONVERSION_PRIOR = 20.0, 0.04, 0.1
_IMPRESSION, _VIEW, _CLICK, _PURCHASE = (KIND_INDEX[k] for k in ("impression", "view", "click", "purchase"))

_5M, _1H, _1D, _7D = (WINDOW_INDEX[name] for name in ("5m", "1h", "1d", "7d"))
_WINDOWS_OF_USER = [_1H, _1D, _7D]
_WINDOWS_OF_ITEM = [_5M, _1H, _1D]
# item_clicks_1h, item_clicks_7d, item_purchases_1d, item_purchases_7d
_COUNTED_WINDOWS = [_1H, _7D, _1D, _7D]
_COUNTED_KINDS = [_CLICK, _CLICK, _PURCHASE, _PURCHASE]
# Of CROSS_FEATURES, those that follow from what is held of the user with the item, and what they are where nothing is.
_PAIR_COLUMNS = len(CROSS_FEATURES) - 2
_STRANGE = np.array([0, 0, np.log1p(NEVER_HOURS), np.log1p(NEVER_HOURS), 0, 0, 0, 0, 0], dtype=np.float32)

Flags = NDArray[np.bool_]


def user_columns(panes: Panes, longs: Longs, sessions: Longs, as_of_ms: Times) -> Floats:
    """USER_FEATURES, float32 `[n, 9]`. `sessions` is int64 `[n, 3]`: open session's start and last time, events."""
    counts, active = _window_counts(panes, as_of_ms)
    return _columns(
        *np.log1p(active[:, _WINDOWS_OF_USER]).T,
        np.log1p(counts[:, _7D, _PURCHASE]),
        np.log1p(counts[:, _1H, _CLICK]),
        np.log1p(longs[:, TOTALS:].sum(axis=1)),
        np.log1p(sessions[:, 2]),
        np.where(sessions[:, 2] > 0, _log_hours(as_of_ms - sessions[:, 0]), 0.0),
        _log_hours_since(longs[:, LAST_TS], as_of_ms),
    )


def cross_columns(pairs: Longs, session_start_ms: Times, latest: Flags, position: Times, as_of_ms: Times) -> Floats:
    """CROSS_FEATURES, float32 `[n, 11]`.

    `pairs` is int64 `[n, TOUCH_HEAD + TOUCHES_KEPT]`: what is held of the user with each item, 0 where empty;
    `position` int64 `[n]`, -1 without one; `session_start_ms` and `as_of_ms` are `[n]`, or `[1]` for all.
    """
    columns = np.empty((len(pairs), len(CROSS_FEATURES)), dtype=np.float32)
    # Users have had to do with few of the items they are shown.
    known = np.flatnonzero(pairs[:, TIMES])
    columns[:, :_PAIR_COLUMNS] = _STRANGE
    if len(known):
        start_ms, now_ms = (t if len(t) == 1 else t[known] for t in (session_start_ms, as_of_ms))
        columns[known, :_PAIR_COLUMNS] = _pair_columns(pairs[known], start_ms, now_ms)
    columns[:, _PAIR_COLUMNS] = latest
    columns[:, _PAIR_COLUMNS + 1] = np.where(position < 0, -1.0, np.log1p(np.maximum(position, 0)))
    return columns


def _pair_columns(pairs: Longs, session_start_ms: Times, as_of_ms: Times) -> Floats:
    touch_ts_ms = pairs[:, TOUCH_HEAD:]
    held = touch_ts_ms > 0
    kept = held.sum(axis=1)
    first_ts_ms = np.where(held, touch_ts_ms, np.iinfo(np.int64).max).min(axis=1)
    age_hours = np.maximum(as_of_ms[:, None] - touch_ts_ms, 0) / HOUR_MS
    gap_ms = (touch_ts_ms.max(axis=1) - first_ts_ms) / np.maximum(kept - 1, 1)
    bought_ago_ms = np.maximum(as_of_ms - pairs[:, LAST_PURCHASE], 1)
    with_cycle = (pairs[:, PURCHASES] > 1) & (kept > 1) & (gap_ms > 0)
    cycle = np.log(bought_ago_ms / np.where(with_cycle, gap_ms, 1))
    in_session = session_start_ms > 0
    return _columns(
        np.log1p(pairs[:, TIMES]),
        np.log1p(pairs[:, PURCHASES]),
        _log_hours_since(pairs[:, LAST_INTEREST], as_of_ms),
        _log_hours_since(pairs[:, LAST_PURCHASE], as_of_ms),
        *(np.where(held, np.exp(-age_hours / decay_hours), 0).sum(axis=1) for decay_hours in (1440.0, 168.0)),
        in_session & (pairs[:, LAST_INTEREST] >= session_start_ms),
        in_session & (pairs[:, LAST_PURCHASE] >= session_start_ms),
        np.where(with_cycle, np.clip(cycle, -6, 6), 0.0),
    )


def item_columns(panes: Panes, longs: Longs, covisits: Times, as_of_ms: Times) -> Floats:
    """ITEM_FEATURES, float32 `[n, 16]`; `as_of_ms` is `[n]`, or `[1]` for all.

    `covisits` is int64 `[n]`: co-visits with the user's latest items.
    """
    counts, active = _window_counts(panes, as_of_ms)
    totals = longs[:, TOTALS:]
    bought = totals[:, _PURCHASE]
    looked = totals[:, _VIEW] + totals[:, _CLICK]
    mean_value = longs[:, VALUE_MILLI] / (1000 * np.maximum(longs[:, VALUE_COUNT], 1))
    return _columns(
        *np.log1p(active[:, _WINDOWS_OF_ITEM]).T,
        *np.log1p(counts[:, _COUNTED_WINDOWS, _COUNTED_KINDS]).T,
        np.log1p(bought),
        np.log1p(totals.sum(axis=1)),
        (counts[:, _7D, _CLICK] + _PRIOR_TRIALS * _CLICK_PRIOR) / (counts[:, _7D, _IMPRESSION] + _PRIOR_TRIALS),
        (bought + _PRIOR_TRIALS * _CONVERSION_PRIOR) / (looked + bought + _PRIOR_TRIALS),
        np.log((active[:, _1D] + 1.0) / (active[:, _7D] / 7 + 1.0)),
        _log_hours_since(longs[:, FIRST_TS], as_of_ms),
        _log_hours_since(longs[:, LAST_TS], as_of_ms),
        np.log1p(np.maximum(mean_value, 0)),
        np.log1p(covisits),
    )


def _window_counts(panes: Panes, as_of_ms: Times) -> tuple[Panes, Panes]:
    """Counts by window and kind, `[n, windows, kinds]`, and what users did in each window, `[n, windows]`.

    Being shown something is nothing done.
    """
    counts = all_window_counts(panes, as_of_ms)
    active: Panes = counts.sum(axis=2) - counts[:, :, _IMPRESSION]
    return counts, active


def _log_hours(elapsed_ms: Times) -> NDArray[np.float64]:
    hours: NDArray[np.float64] = np.log1p(np.maximum(elapsed_ms, 0) / HOUR_MS)
    return hours


def _log_hours_since(ts_ms: Times, as_of_ms: Times) -> NDArray[np.float64]:
    return np.where(ts_ms > 0, _log_hours(as_of_ms - ts_ms), np.log1p(NEVER_HOURS))


def _columns(*columns: NDArray[np.generic]) -> Floats:
    """float32 `[n, len(columns)]`; a column of one value stands for all rows."""
    # Column by column into one block: stacking a dozen small arrays costs more than computing them.
    block = np.empty((len(columns), max(map(len, columns))), dtype=np.float32)
    for at, column in enumerate(columns):
        block[at] = column
    return block.T


FEATURE_SET = FeatureSet(FEATURE_NAMES, tuple(feature.edges for feature in FEATURES), FEATURE_HASH)


def feature_set(settings: Settings) -> FeatureSet:
    """The features of a system."""
    return FEATURE_SET
