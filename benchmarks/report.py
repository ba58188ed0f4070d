"""The table that is printed and the JSON that is kept."""

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.data import LogSpec
from benchmarks.execute import Run
from benchmarks.registry import CONTENDERS, OURS
from benchmarks.workloads import WORKLOADS, Workload

RESULTS = Path(__file__).resolve().parent / "results"
TITLES: dict[Workload, str] = {
    "w1": "W1 keyed state",
    "w2": "W2 hopping windows, user + item",
    "w3a": "W3 15 features",
    "w3b": "W3 15 features + River",
}


class Row(msgspec.Struct):
    """All rounds of one contender in one workload; rates in events a second, 0 when none succeeded."""

    workload: Workload
    contender: str
    label: str
    versions: dict[str, str]
    events: int
    median_per_s: float
    min_per_s: float
    max_per_s: float
    ours_ratio: float | None
    problem: str


class Results(msgspec.Struct):
    """Everything about one invocation, as kept in ``benchmarks/results/``."""

    name: str
    started_at: str
    cpus: int
    python: str
    platform: str
    kafka: str
    log: LogSpec
    rows: list[Row]
    runs: list[Run]


def summarize(runs: Sequence[Run]) -> list[Row]:
    """One row a workload and contender. A run with a problem gives its row the problem and no rate."""
    rows = []
    for workload in WORKLOADS:
        for contender in CONTENDERS:
            of_it = [run for run in runs if (run.workload, run.contender) == (workload, contender.name)]
            if of_it:
                rows.append(_row(workload, contender.label, of_it))
    ours = {row.workload: row.median_per_s for row in rows if row.contender == OURS}
    for row in rows:
        if row.median_per_s and ours.get(row.workload):
            row.ours_ratio = ours[row.workload] / row.median_per_s
    return rows


def _row(workload: Workload, label: str, runs: list[Run]) -> Row:
    problems = [f"round {run.round}: {run.problem}" for run in runs if run.problem]
    rates = [0.0] if problems else [run.events_per_s for run in runs]
    first = runs[0]
    return Row(
        workload,
        first.contender,
        label,
        first.versions,
        first.events,
        statistics.median(rates),
        min(rates),
        max(rates),
        None,
        "; ".join(problems),
    )


def results(name: str, started_at: str, kafka: str, log: LogSpec, runs: list[Run]) -> Results:
    """Gather what is worth keeping."""
    return Results(
        name,
        started_at,
        os.cpu_count() or 0,
        platform.python_version(),
        platform.platform(),
        kafka,
        log,
        summarize(runs),
        runs,
    )


def keep(found: msgspec.Struct, name: str) -> Path:
    """Write ``benchmarks/results/<name>.json`` and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return path


def show(found: Results, console: Console) -> None:
    """Print the table."""
    log = found.log
    table = Table(
        title=f"{log.events:,} events, {log.users:,} users, {log.items:,} items, "
        f"{log.partitions} partitions\n"
        f"one process each, durable state; {found.cpus} cores, Python {found.python}, {found.kafka}",
        caption="* on a shorter log of the same distribution, for being slow; ours is: ours / theirs",
    )
    for heading in ("workload", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("events", "events/s", "min", "max", "ours is"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("result")
    previous: Workload | None = None
    for row in found.rows:
        if previous not in (None, row.workload):
            table.add_section()
        table.add_row(TITLES[row.workload] if row.workload != previous else "", *_cells(row, log.events))
        previous = row.workload
    console.print(table)


def _cells(row: Row, log_events: int) -> tuple[str, ...]:
    version = next(iter(row.versions.values()), "")
    name, events = f"{row.label} {version}", f"{row.events:,}{'*' if row.events < log_events else ''}"
    if row.problem:
        return name, events, "failed", "", "", "", f"[red]{row.problem[:300]}"
    ratio = "" if row.ours_ratio is None or row.contender == OURS else f"{row.ours_ratio:.2f}x"
    rates = (f"{rate:,.0f}" for rate in (row.median_per_s, row.min_per_s, row.max_per_s))
    return name, events, *rates, ratio, "[green]equals oracle"
