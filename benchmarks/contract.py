"""What the runner hands to a contender and what it gets back.

A contender is a module ``benchmarks.<name>`` with two names:

``DISTRIBUTIONS: tuple[str, ...]``
    The packages whose versions the table shows.
``run(job: Job) -> Report``
    Fold ``job.topic`` from its first record to its last with durable state, then return. It is called
    once, in a process of its own (``python -m benchmarks.contender NAME JOB REPORT``), so it may take the
    process over.

Timing, the same for all: a :class:`Stopwatch` started by the first record that reaches the contender's own
code and stopped when the effect of the last record is durable: state flushed to changelog or recovery
store *and* input offsets committed. Start-up, assignment and shutdown are outside.

Results: a :class:`KeyedResult` (W1, W3) or a :class:`WindowResult` (W2), preferably read back from what was
made durable. The runner compares it with an oracle folded from the same log; see oracle.py.

A contender of recovery.py also has ``recover(job: Job) -> Recovered``: with the same job after :func:`run`, and an
empty ``state_dir``, read the state of W1 back.
"""

import time
import zlib
from collections.abc import Iterable
from typing import Any

import msgspec

from benchmarks.workloads import STEP_MS, WINDOWS_PER_EVENT, Workload

SAMPLE_ONE_IN = 64
"""One key in so many is compared value by value; all of them count in the totals."""


class Job(msgspec.Struct, frozen=True):
    """One run: fold ``events`` records of ``topic`` (``partitions`` partitions) for ``workload``.

    ``run_id`` is unique: name consumer groups, changelogs and other topics after it (they are deleted
    afterwards). ``state_dir`` is an empty directory for local state.
    """

    workload: Workload
    bootstrap: str
    topic: str
    events: int
    partitions: int
    run_id: str
    state_dir: str


class KeyedResult(msgspec.Struct, tag="keyed"):
    """W1's and W3's final state: totals over all users, and the state of the sampled ones.

    ``sample`` holds ``[count, sum, last_ts]`` of a user; the sum is of values in W1, of features in W3.
    """

    keys: int = 0
    count: int = 0
    total: float = 0.0
    sample: dict[str, tuple[int, float, int]] = {}


class WindowTotals(msgspec.Struct):
    """W2's counts for one kind of key: number of windows, sum of their counts, sampled keys' windows by
    start."""

    windows: int = 0
    total: int = 0
    sample: dict[str, dict[int, int]] = {}


class WindowResult(msgspec.Struct, tag="window"):
    """W2's windows, of all that ever held an event.

    ``complete_from_ms``: windows that start before it may be absent because they expired (0: all are there).
    """

    users: WindowTotals
    items: WindowTotals
    complete_from_ms: int = 0


class Report(msgspec.Struct):
    """A finished run: ``elapsed_s`` from first record consumed to last effect durable, and the result.

    ``learned`` and ``log_loss`` are W3 (b)'s; ``note`` is kept beside the run.
    ``memory_bytes``, the most that the process held, is told where it is asked for (stores.py).
    ``versions`` are filled in by contender.py.
    """

    elapsed_s: float
    result: KeyedResult | WindowResult
    learned: int = 0
    log_loss: float = 0.0
    note: str = ""
    memory_bytes: int = 0
    versions: dict[str, str] = {}


class Recovered(msgspec.Struct):
    """State taken over by a new process: ``elapsed_s`` from assignment to ready, and records read."""

    elapsed_s: float
    records: int
    memory_bytes: int = 0
    versions: dict[str, str] = {}


class Stopwatch:
    """Times a run: call :meth:`start` with every record or batch (only the first counts), :meth:`stop`
    once."""

    __slots__ = ("started_s", "stopped_s")

    def __init__(self) -> None:
        """Neither started nor stopped."""
        self.started_s = 0.0
        self.stopped_s = 0.0

    def start(self) -> None:
        """Note the time of the first record."""
        if not self.started_s:
            self.started_s = time.perf_counter()

    def stop(self) -> None:
        """Note that everything is durable."""
        self.stopped_s = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds between the two. Raises RuntimeError when either has not happened."""
        if not (self.started_s and self.stopped_s):
            raise RuntimeError("the run consumed no record or never became durable: nothing was timed")
        return self.stopped_s - self.started_s


def sampled(key: str) -> bool:
    """Is ``key`` among those compared value by value?"""
    return zlib.crc32(key.encode()) % SAMPLE_ONE_IN == 0


def keyed_row(workload: Workload, user: str, state: Any) -> tuple[str, int, float, int]:
    """The row of a user's decoded state: ``[count, sum, last_ts_ms]`` in W1, a profile with its feature sum in W3."""
    count, total, last_ts = state if workload == "w1" else (state["events"], state["feature_sum"], state["last_ts"])
    return user, count, total, last_ts


def keyed_result(rows: Iterable[tuple[str, int, float, int]]) -> KeyedResult:
    """Summarize ``(user, count, sum, last_ts_ms)`` rows, one a user."""
    result = KeyedResult()
    for user, count, total, last_ts in rows:
        result.keys += 1
        result.count += count
        result.total += total
        if sampled(user):
            result.sample[user] = (count, total, last_ts)
    return result


def window_totals(cells: Iterable[tuple[str, int, int]]) -> WindowTotals:
    """Summarize ``(key, window_start_ms, count)`` cells, one a window of a key."""
    totals = WindowTotals()
    for key, start_ms, count in cells:
        totals.windows += 1
        totals.total += count
        if sampled(key):
            totals.sample.setdefault(key, {})[start_ms] = count
    return totals


def windows_of_panes(panes: Iterable[tuple[str, int, int]]) -> Iterable[tuple[str, int, int]]:
    """Turn ``(key, pane_start_ms, count)`` (panes one step long) into the hopping windows that they make
    up."""
    windows: dict[tuple[str, int], int] = {}
    for key, pane_ms, count in panes:
        for back in range(WINDOWS_PER_EVENT):
            cell = (key, pane_ms - back * STEP_MS)
            windows[cell] = windows.get(cell, 0) + count
    for (key, start_ms), count in windows.items():
        yield key, start_ms, count
