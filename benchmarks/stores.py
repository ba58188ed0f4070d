"""Tables in memory beside tables on disk: ``python -m benchmarks.stores [--users N] [--events N] [--rounds N]``.

A worker folds a log of so many users into the real users table, in memory and on disk in turns, each time from nothing.
Then new processes take over what it left: in memory they read the changelog back, on disk the rest of it.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.contract import Job, Recovered, Report
from benchmarks.data import LogSpec, publish
from benchmarks.execute import delete_topics, in_own_process
from benchmarks.report import keep
from benchmarks.run import broker

STORES = ("memory", "rocksdb")
CONTENDER = "ours_users"
TIMEOUT_S = 600.0
MB = 1_000_000

R = TypeVar("R", Report, Recovered)


class Results(msgspec.Struct):
    """Everything about one invocation, as kept in ``benchmarks/results/stores.json``."""

    started_at: str
    users: int
    events: int
    folded: dict[str, list[Report]]
    restarted: dict[str, list[Recovered]]


def measure(bootstrap: str, run_id: str, spec: LogSpec, rounds: int, found: Results, console: Console) -> None:
    """Fold and restart in turns."""
    topic = f"{run_id}-log"
    asyncio.run(publish(bootstrap, topic, spec))
    with tempfile.TemporaryDirectory(prefix="persona-bench-", ignore_cleanup_errors=True) as folder:
        for number in range(rounds):
            for store in STORES:
                name = f"{run_id}-{store}-{number}"
                job = Job("w1", bootstrap, topic, spec.events, spec.partitions, name, tempfile.mkdtemp(dir=folder))
                os.environ["PERSONA_STORE"] = store
                folded = in_own_process(CONTENDER, "run", job, Report, Path(folder), TIMEOUT_S)
                restarted = in_own_process(CONTENDER, "recover", job, Recovered, Path(folder), TIMEOUT_S)
                found.folded.setdefault(store, []).append(folded)
                found.restarted.setdefault(store, []).append(restarted)
                console.print(
                    f"round {number + 1}/{rounds} {store}: {spec.events / folded.elapsed_s:,.0f} events/s, "
                    f"restarted in {restarted.elapsed_s:.2f} s with {restarted.records:,} records read"
                )


def show(found: Results, console: Console) -> None:
    """Print the table."""
    table = Table(title=f"{found.events:,} events of {found.users:,} users; median of the rounds")
    for heading in ("tables in", "events/s", "MB at most", "restart s", "records read", "MB at most"):
        table.add_column(heading, justify="left" if heading == "tables in" else "right")
    for store in STORES:
        folded, restarted = found.folded[store], found.restarted[store]
        table.add_row(
            store,
            f"{_median(folded, lambda run: found.events / run.elapsed_s):,.0f}",
            f"{_median(folded, lambda run: run.memory_bytes / MB):,.0f}",
            f"{_median(restarted, lambda run: run.elapsed_s):.2f}",
            f"{_median(restarted, lambda run: run.records):,.0f}",
            f"{_median(restarted, lambda run: run.memory_bytes / MB):,.0f}",
        )
    console.print(table)


def _median(runs: list[R], value: Callable[[R], float]) -> float:
    return statistics.median(value(run) for run in runs)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stores", description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--events", type=int, default=600_000)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    console = Console()
    started_at = datetime.now(UTC)
    run_id = f"bench-{started_at:%Y%m%d-%H%M%S}"
    found = Results(started_at.isoformat(), args.users, args.events, {}, {})
    with broker(console) as (bootstrap, _):
        try:
            spec = LogSpec(events=args.events, users=args.users, zipf=0.0)
            measure(bootstrap, run_id, spec, args.rounds, found, console)
        finally:
            asyncio.run(delete_topics(bootstrap, run_id))
    show(found, console)
    console.print(f"kept: {keep(found, 'stores')}")


if __name__ == "__main__":
    main()
