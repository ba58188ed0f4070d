"""Windows, totals and sessions beside a plain oracle: DuckDB's SQL over the same events."""

import random
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logs import DAY_MS, T0_MS, log_of, log_of_records, shopping, slices
from support.runs import Run, run

from agents.interactions import Interactions
from agents.items import Items
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.events import KINDS
from tables import items as items_table
from tables import users as users_table
from tables.counters import FIRST_TS, LAST_TS, TOTALS, VALUE_COUNT, VALUE_MILLI, WINDOWS, stack_panes, window_counts

SETTINGS = Settings(namespace="t", partitions=1)
some = settings(deadline=None, max_examples=15)
EVENTS = st.tuples(st.integers(0, 10_000), st.integers(1, 200), st.integers(0, 9 * DAY_MS), st.sampled_from([1, 60]))


def _folded(seed: int, count: int, stretch: int) -> tuple[list[dict[str, Any]], Run, Run]:
    """Events (in disorder, repeated), and both tables folded from them. `stretch`: minutes become as many."""
    events = shopping(count, seed=seed, users=4, items=5)
    for made in events:
        made["ts"] = T0_MS + (made["ts"] - T0_MS) * stretch
    events.sort(key=lambda made: made["ts"] + random.Random(made["id"]).randrange(SETTINGS.allowed_lateness_ms))
    users = run(Interactions(SETTINGS, with_examples=False), users_table.codec, slices(log_of(events)))
    moved = log_of_records(users.emitted.get("t.internal.item-events", []))
    items = run(Items(SETTINGS, with_examples=False), items_table.codec, slices(moved))
    return events, users, items


def _touches(events: list[dict[str, Any]], who: str) -> pd.DataFrame:
    """One row for each event (and each item of it) that `who` (user or item) had part in; every id once."""
    rows = []
    for made in {made["id"]: made for made in events}.values():
        shown = made["items"] if made["type"] == "impression" else [made.get("item")]
        names = [made["user"]] if who == "user" else [item for item in dict.fromkeys(shown) if item]
        kind = made["type"] if made["type"] in KINDS else "other"
        rows += [(name, kind, made["ts"], round(1000 * made.get("value", 0))) for name in names]
    frame = pd.DataFrame(rows, columns=["name", "kind", "ts_ms", "milli"])
    return frame.astype({"name": str, "kind": str, "ts_ms": np.int64, "milli": np.int64})


def _windows_by_sql(touches: pd.DataFrame, as_of_ms: int) -> Iterator[tuple[str, str, list[int]]]:
    """(window, name, counts by kind): half-open windows aligned to panes that end with the pane of `as_of_ms`."""
    con = duckdb.connect()
    con.register("touches", touches)
    counts = ", ".join(f"count(*) FILTER (kind = '{kind}')" for kind in KINDS)
    for window in WINDOWS:
        end_ms = (as_of_ms // window.pane_ms + 1) * window.pane_ms
        query = f"""
            SELECT name, {counts} FROM touches
            WHERE ts_ms >= {end_ms - window.size_ms} AND ts_ms < {end_ms} GROUP BY name
        """  # noqa: S608  # numbers of our own
        for name, *found in con.execute(query).fetchall():
            yield window.name, name, found


@pytest.mark.parametrize("who", ["user", "item"])
@some
@given(EVENTS)
def test_windows_are_what_sql_counts(who: str, drawn: tuple[int, int, int, int]) -> None:
    seed, count, later_ms, stretch = drawn
    events, users, items = _folded(seed, count, stretch)
    state = (users if who == "user" else items).state
    # A ring holds the newest window's worth: what is older than that cannot be asked for.
    as_of_ms = max(made["ts"] for made in events) + later_ms
    expected = {(window, name): found for window, name, found in _windows_by_sql(_touches(events, who), as_of_ms)}
    found = {}
    for name in state:
        panes = stack_panes([state.get(name).panes])
        for window in WINDOWS:
            counts = window_counts(panes, np.array([as_of_ms]), window)[0].tolist()
            if any(counts):
                found[window.name, name] = counts
    assert found == expected


@pytest.mark.parametrize("who", ["user", "item"])
@some
@given(EVENTS)
def test_totals_are_what_sql_sums(who: str, drawn: tuple[int, int, int, int]) -> None:
    seed, count, _, stretch = drawn
    events, users, items = _folded(seed, count, stretch)
    state = (users if who == "user" else items).state
    con = duckdb.connect()
    con.register("touches", _touches(events, who))
    counts = ", ".join(f"count(*) FILTER (kind = '{kind}')" for kind in KINDS)
    query = f"""
        SELECT name, min(ts_ms), max(ts_ms), sum(milli)::BIGINT, count(*) FILTER (milli <> 0), {counts}
        FROM touches GROUP BY name
    """  # noqa: S608  # names of our own
    expected = {name: found for name, *found in con.execute(query).fetchall()}
    found = {}
    for name in state:
        longs = np.frombuffer(state.get(name).longs, dtype=np.int64).tolist()
        found[name] = [longs[at] for at in (FIRST_TS, LAST_TS, VALUE_MILLI, VALUE_COUNT)] + longs[TOTALS:]
    assert found == expected


@some
@given(EVENTS)
def test_sessions_are_what_sql_cuts(drawn: tuple[int, int, int, int]) -> None:
    seed, count, _, stretch = drawn
    events, users, _ = _folded(seed, count, stretch)
    con = duckdb.connect()
    con.register("touches", _touches(events, "user"))
    query = f"""
        WITH gaps AS (
            SELECT name, ts_ms, ts_ms - lag(ts_ms) OVER w > {SETTINGS.session_gap_ms} AS opens
            FROM touches WINDOW w AS (PARTITION BY name ORDER BY ts_ms)
        ), numbered AS (
            SELECT name, ts_ms, sum(coalesce(opens, true)::INT) OVER (PARTITION BY name ORDER BY ts_ms) AS session
            FROM gaps
        )
        SELECT name, min(ts_ms), max(ts_ms), count(*) FROM numbered GROUP BY name, session ORDER BY name, 2
    """  # noqa: S608  # numbers of our own
    expected: dict[str, list[list[int]]] = {}
    for name, *session in con.execute(query).fetchall():
        expected.setdefault(name, []).append(session)
    for name in users.state:
        state = users.state.get(name)
        assert state.sessions == expected[name][state.sessions_before :]
        assert state.sessions_before + len(state.sessions) == len(expected[name])


def test_the_oracle_reads_what_the_fold_reads() -> None:
    events, users, _ = _folded(3, 50, 1)
    assert set(_touches(events, "user")["name"]) == set(users.state)
    assert orjson.loads(log_of(events)[0].value or b"")["id"] == events[0]["id"]
