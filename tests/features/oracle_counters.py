"""The oracle of what is counted: DuckDB's SQL over one row a touch."""

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from world import (
    DAY_MS,
    HOUR_MS,
    KINDS,
    MINUTE_MS,
    NEVER,
    Asked,
    Columns,
    Params,
    World,
    chosen_kinds,
    log_hours,
    span_ms,
)

# A window covers whole panes, half-open and aligned to the epoch, and ends with the pane that holds the moment asked.
WINDOWS = {
    "2m": (2 * MINUTE_MS, MINUTE_MS),
    "5m": (5 * MINUTE_MS, MINUTE_MS),
    "10m": (10 * MINUTE_MS, 10 * MINUTE_MS),
    "30m": (30 * MINUTE_MS, 10 * MINUTE_MS),
    "1h": (HOUR_MS, 10 * MINUTE_MS),
    "6h": (6 * HOUR_MS, 3 * HOUR_MS),
    "9h": (9 * HOUR_MS, 3 * HOUR_MS),
    "1d": (DAY_MS, 3 * HOUR_MS),
    "3d": (3 * DAY_MS, DAY_MS),
    "7d": (7 * DAY_MS, DAY_MS),
}
SESSIONS_SEEN = 8
VISITS_SEEN = 64
"""Of the user's latest visits, so many are looked at for what they are like."""

Session = tuple[int, int, int]
"""(start, last, events)"""


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def _rows(world: World, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    frame = world.__dict__.get("frame")
    if frame is None:
        columns = ["scope", "name", "kind", "ts_ms", "value"]
        frame = pd.DataFrame(world.touches, columns=columns).astype({"ts_ms": np.int64, "value": np.float64})
        for text in columns[:3]:
            frame[text] = frame[text].astype(str)
        world.__dict__["frame"] = frame
    _connection().register("touches", frame)
    return _connection().execute(query, list(parameters)).fetchall()


def _by_name(world: World, asked: Asked, params: Params, measure: str, parameters: Sequence[Any]) -> list[Any]:
    """A measure of the user, or of each item; None for those without a touch."""
    scope = params.get("scope", "item")
    query = f"SELECT name, {measure} FROM touches WHERE scope = ? GROUP BY name"  # noqa: S608  # measures of our own
    found = dict(_rows(world, query, [*parameters, scope]))
    names = asked.items if scope == "item" else [asked.user] * len(asked.items)
    return [found.get(name) for name in names]


def _counts(world: World, asked: Asked, params: Params, kinds: Sequence[str], window: str | None) -> list[float]:
    measure = "count(*) FILTER (ts_ms >= ? AND ts_ms < ? AND list_contains(?, kind))"
    span = [*_span(asked, window), list(kinds)]
    return [count or 0 for count in _by_name(world, asked, params, measure, span)]


def _span(asked: Asked, window: str | None) -> list[Any]:
    """Start and end of a window, or of all time."""
    if window is None:
        return [0, 1 << 60]
    size_ms, pane_ms = WINDOWS[window]
    end_ms = (asked.as_of_ms // pane_ms + 1) * pane_ms
    return [end_ms - size_ms, end_ms]


def window_count(world: World, asked: Asked, params: Params) -> Columns:
    return [[math.log1p(n) for n in _counts(world, asked, params, chosen_kinds(params), params["window"])]]


def interaction_count(world: World, asked: Asked, params: Params) -> Columns:
    return [[math.log1p(n) for n in _counts(world, asked, params, params.get("events") or KINDS, None)]]


def rate(world: World, asked: Asked, params: Params) -> Columns:
    prior, trials = params.get("rate", 0.05), params.get("trials", 20.0)
    top = _counts(world, asked, params, params["top"], params.get("window"))
    bottom = _counts(world, asked, params, params["bottom"], params.get("window"))
    return [[(t + prior * trials) / (b + trials) for t, b in zip(top, bottom, strict=True)]]


def trend(world: World, asked: Asked, params: Params) -> Columns:
    kinds = chosen_kinds(params)
    short = _counts(world, asked, params, kinds, params["short"])
    long = _counts(world, asked, params, kinds, params["long"])
    share = WINDOWS[params["short"]][0] / WINDOWS[params["long"]][0]
    return [[math.log((s + 1) / (n * share + 1)) for s, n in zip(short, long, strict=True)]]


def decayed_count(world: World, asked: Asked, params: Params) -> Columns:
    half_life_ms = span_ms(params["half_life"])
    longest = ["5m", "1h", "1d", "7d"]
    size_ms, pane_ms = next((WINDOWS[w] for w in longest if WINDOWS[w][0] >= 4 * half_life_ms), WINDOWS["7d"])
    end_ms = (asked.as_of_ms // pane_ms + 1) * pane_ms
    age_ms = "greatest(? - ((ts_ms // ?) * ? + ?), 0)"
    measure = f"sum(pow(0.5, {age_ms} / ?)) FILTER (ts_ms >= ? AND ts_ms < ? AND list_contains(?, kind))"
    of_age = [asked.as_of_ms, pane_ms, pane_ms, pane_ms // 2, half_life_ms]
    asks = [*of_age, end_ms - size_ms, end_ms, list(chosen_kinds(params))]
    return [[math.log1p(worth or 0.0) for worth in _by_name(world, asked, params, measure, asks)]]


def recency(world: World, asked: Asked, params: Params) -> Columns:
    return [_since(asked, _by_name(world, asked, params, "max(ts_ms)", []))]


def age(world: World, asked: Asked, params: Params) -> Columns:
    return [_since(asked, _by_name(world, asked, params, "min(ts_ms)", []))]


def _since(asked: Asked, times_ms: Sequence[int | None]) -> list[float]:
    return [NEVER if ts_ms is None else log_hours(asked.as_of_ms - ts_ms) for ts_ms in times_ms]


def mean_value(world: World, asked: Asked, params: Params) -> Columns:
    span = _span(asked, params.get("window"))
    means = _by_name(world, asked, params, "avg(value) FILTER (value <> 0 AND ts_ms >= ? AND ts_ms < ?)", span)
    return [[math.log1p(max(mean or 0.0, 0.0)) for mean in means]]


def value_sum(world: World, asked: Asked, params: Params) -> Columns:
    span = _span(asked, params.get("window"))
    sums = _by_name(world, asked, params, "sum(value) FILTER (ts_ms >= ? AND ts_ms < ?)", span)
    return [[math.log1p(max(total or 0.0, 0.0)) for total in sums]]


def sessions(world: World, user: str) -> list[Session]:
    """The user's sessions, oldest first: a gap longer than the session gap parts two."""
    query = """
        WITH gaps AS (
            SELECT ts_ms, ts_ms - lag(ts_ms) OVER (ORDER BY ts_ms) > ? AS opens
            FROM touches WHERE scope = 'user' AND name = ?
        ), numbered AS (
            SELECT ts_ms, sum(coalesce(opens, true)::INT) OVER (ORDER BY ts_ms) AS session FROM gaps
        )
        SELECT min(ts_ms), max(ts_ms), count(*) FROM numbered GROUP BY session ORDER BY 1
    """
    return _rows(world, query, [world.gap_ms, user])


def open_session(world: World, asked: Asked) -> Session | None:
    """The session that the moment asked belongs to. It is asked about after all that happened."""
    latest = sessions(world, asked.user)[-1:]
    return latest[0] if latest and asked.as_of_ms <= latest[0][1] + world.gap_ms else None


def session(world: World, asked: Asked, params: Params) -> Columns:
    opened = open_session(world, asked)
    if opened is None:
        return _of_user(asked, 0.0)
    start_ms, _, events = opened
    depth, duration = math.log1p(events), log_hours(asked.as_of_ms - start_ms)
    return _of_user(asked, depth if params["measure"] == "depth" else duration)


def session_average(world: World, asked: Asked, params: Params) -> Columns:
    latest = sessions(world, asked.user)[-params.get("sessions", SESSIONS_SEEN) :]
    if params["measure"] == "depth":
        return _of_user(asked, math.log1p(_mean([events for _, _, events in latest])))
    if params["measure"] == "duration":
        return _of_user(asked, log_hours(_mean([last_ms - start_ms for start_ms, last_ms, _ in latest])))
    between = [after[0] - before[1] for before, after in itertools.pairwise(latest)]
    return _of_user(asked, log_hours(_mean(between)))


def distinct_items(world: World, asked: Asked, params: Params) -> Columns:
    # SQL would have to know how visits of one millisecond are ordered: the latest ones come from the world.
    visits = world.visits(asked.user)[-VISITS_SEEN:]
    within = {item for ts_ms, item, _ in visits if asked.as_of_ms - ts_ms < span_ms(params["within"])}
    return _of_user(asked, math.log1p(len(within)))


def session_pattern(world: World, asked: Asked, params: Params) -> Columns:
    opened = open_session(world, asked)
    visits = [v for v in world.visits(asked.user)[-VISITS_SEEN:] if opened is not None and v[0] >= opened[0]]
    if not visits:
        return _of_user(asked, 0.0)
    count, items = len(visits), {item for _, item, _ in visits}
    measures = {
        "items": math.log1p(len(items)),
        "returning": (count - len(items)) / count,
        "clicking": sum(kind == "click" for _, _, kind in visits) / count,
        "pace": math.log1p((visits[-1][0] - visits[0][0]) / 1000 / (count - 1)) if count > 1 else 0.0,
    }
    return _of_user(asked, measures[params["measure"]])


def _of_user(asked: Asked, value: float) -> Columns:
    return [[value] * len(asked.items)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
