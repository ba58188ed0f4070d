"""The truth, folded from the log without any engine, and the comparison of a contender's result with it."""

import math
from collections.abc import Iterable, Mapping

from benchmarks.contract import (
    KeyedResult,
    Report,
    WindowResult,
    WindowTotals,
    keyed_result,
    window_totals,
    windows_of_panes,
)
from benchmarks.workloads import (
    STEP_MS,
    WINDOWS_PER_EVENT,
    Event,
    KeyedState,
    UserState,
    Workload,
    count_event,
    featurize,
    new_user,
)

MAX_LOG_LOSS = math.log(2)
"""W3 (b)'s model depends on the order of partitions; it must only be better than a coin, in nats."""


def truth(workload: Workload, events: Iterable[Event]) -> KeyedResult | WindowResult:
    """The result that every contender must reach on ``events`` (in the order of the log)."""
    if workload == "w1":
        counts: dict[str, KeyedState] = {}
        for event in events:
            counts[event.user] = count_event(counts.get(event.user), event)
        return keyed_result((user, n, total, last) for user, (n, total, last) in counts.items())
    if workload == "w2":
        users: dict[tuple[str, int], int] = {}
        items: dict[tuple[str, int], int] = {}
        for event in events:
            pane_ms = event.ts - event.ts % STEP_MS
            users[event.user, pane_ms] = users.get((event.user, pane_ms), 0) + 1
            items[event.item, pane_ms] = items.get((event.item, pane_ms), 0) + 1
        return WindowResult(_totals(users), _totals(items))
    states: dict[str, UserState] = {}
    for event in events:
        states[event.user] = featurize(states.get(event.user) or new_user(), event, None)
    return keyed_result((user, s["events"], s["feature_sum"], s["last_ts"]) for user, s in states.items())


def _totals(panes: dict[tuple[str, int], int]) -> WindowTotals:
    return window_totals(windows_of_panes((key, pane_ms, n) for (key, pane_ms), n in panes.items()))


def differences(workload: Workload, events: int, report: Report, expected: KeyedResult | WindowResult) -> list[str]:
    """What is wrong with a report; empty when it is right."""
    match report.result, expected:
        case KeyedResult() as got, KeyedResult() as want:
            found = _keyed_differences(got, want)
        case WindowResult() as got_w, WindowResult() as want_w:
            found = _window_differences("users", events, got_w.complete_from_ms, got_w.users, want_w.users)
            found += _window_differences("items", events, got_w.complete_from_ms, got_w.items, want_w.items)
        case _:
            found = [f"{workload} expects a {type(expected).__name__}, got {type(report.result).__name__}"]
    if workload == "w3b":
        if report.learned != events:
            found.append(f"the model learned {report.learned} of {events} events")
        if not 0 < report.log_loss < MAX_LOG_LOSS:
            found.append(f"log loss {report.log_loss:.3f} is not between 0 and {MAX_LOG_LOSS:.3f}")
    return found


def _keyed_differences(got: KeyedResult, want: KeyedResult) -> list[str]:
    found = []
    if (got.keys, got.count) != (want.keys, want.count):
        found.append(f"{got.count} events of {got.keys} users, the log has {want.count} of {want.keys}")
    if not math.isclose(got.total, want.total, rel_tol=1e-9):
        found.append(f"sum {got.total!r}, the log gives {want.total!r}")
    # one user's events stay in order, so sums of floats must be equal to the last bit
    found += _first_difference("user", got.sample, want.sample)
    return found


def _window_differences(
    kind: str, events: int, complete_from_ms: int, got: WindowTotals, want: WindowTotals
) -> list[str]:
    found = []
    if not complete_from_ms:
        if got.total != events * WINDOWS_PER_EVENT:
            found.append(f"{kind}: windows count {got.total}, expected {events} x {WINDOWS_PER_EVENT}")
        if got.windows != want.windows:
            found.append(f"{kind}: {got.windows} windows, expected {want.windows}")
    return found + _first_difference(kind, _since(got.sample, complete_from_ms), _since(want.sample, complete_from_ms))


def _since(sample: dict[str, dict[int, int]], start_ms: int) -> dict[str, dict[int, int]]:
    kept = {key: {at: n for at, n in windows.items() if at >= start_ms} for key, windows in sample.items()}
    return {key: windows for key, windows in kept.items() if windows}


def _first_difference(kind: str, got: Mapping[str, object], want: Mapping[str, object]) -> list[str]:
    wrong = sorted(key for key in got.keys() | want.keys() if got.get(key) != want.get(key))
    if not wrong:
        return []
    key = wrong[0]
    return [f"{len(wrong)} of {len(want)} sampled {kind} differ, {key}: {got.get(key)}, not {want.get(key)}"]
