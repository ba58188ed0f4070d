"""The stream benchmarks: ``python -m benchmarks.run [--quick]``; prints one table, keeps one JSON.

Starts the embedded broker (or uses PERSONA_KAFKA), fills a topic once, then runs every contender in a
process of its own, in turns, several rounds, and compares every result with an oracle. benchmarks/README.md
has the rules.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks import workloads as w
from benchmarks.contract import KeyedResult, WindowResult
from benchmarks.data import LogSpec, generate, publish
from benchmarks.execute import Assignment, Run, delete_topics, execute
from benchmarks.oracle import truth
from benchmarks.registry import CONTENDERS, Contender
from benchmarks.report import keep, results, show
from persona_stream.broker import EmbeddedBroker

CACHE = Path(__file__).resolve().parent.parent / ".persona" / "cache"
QUICK_EVENTS = 20_000
FILE_WIDTH = 140

Truths = dict[tuple[w.Workload, int], KeyedResult | WindowResult]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.partition("\n")[0])
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--quick", action="store_true", help=f"one round of {QUICK_EVENTS:,} events")
    parser.add_argument("--events", type=int, help="length of the log (default 500,000)")
    parser.add_argument("--rounds", type=int, help="runs of each contender (default 3)")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="bound of one run (default 300)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--workloads", nargs="+", choices=w.WORKLOADS, default=list(w.WORKLOADS))
    parser.add_argument("--name", help="name of the JSON kept in benchmarks/results (default: the time)")
    args = parser.parse_args(argv)
    args.events = args.events or (QUICK_EVENTS if args.quick else LogSpec().events)
    args.rounds = args.rounds or (1 if args.quick else 3)
    return args


@contextmanager
def broker(console: Console) -> Iterator[tuple[str, str]]:
    """``(bootstrap, what it is)``: the cluster of PERSONA_KAFKA, or an embedded broker in a temporary
    folder."""
    outside = os.environ.get("PERSONA_KAFKA", "")
    if outside:
        yield outside, "outside Kafka"
        return
    with tempfile.TemporaryDirectory(prefix="persona-bench-kafka-", ignore_cleanup_errors=True) as home:
        console.print("starting the embedded broker")
        embedded = EmbeddedBroker(Path(home), cache_dir=CACHE)
        try:
            yield embedded.start(), "embedded Kafka"
        finally:
            embedded.stop()


def lengths(contenders: list[Contender], workloads: list[w.Workload], events: int) -> dict[w.Workload, set[int]]:
    """Which log lengths are needed, by workload."""
    return {wl: {contender.events(wl, events) for contender in contenders} for wl in workloads}


def oracle(needed: dict[w.Workload, set[int]], spec: LogSpec) -> Truths:
    """The right result for every workload and length."""
    truths: Truths = {}
    for length in set().union(*needed.values()):
        log = [w.decode(record.value) for record in generate(msgspec.structs.replace(spec, events=length))]
        for workload in needed:
            if length in needed[workload]:
                truths[workload, length] = truth(workload, log)
    return truths


def fill(bootstrap: str, needed: dict[w.Workload, set[int]], spec: LogSpec, run_id: str) -> dict[int, str]:
    """Publish a log of every length; topic names by length."""
    topics = {length: f"{run_id}-log-{length}" for length in set().union(*needed.values())}
    for length, topic in topics.items():
        counts = asyncio.run(publish(bootstrap, topic, msgspec.structs.replace(spec, events=length)))
        if sum(counts) != length:
            raise RuntimeError(f"{topic} got {sum(counts)} records instead of {length}")
    return topics


def rounds(args: argparse.Namespace, bootstrap: str, run_id: str, spec: LogSpec, console: Console) -> list[Run]:
    """Run everything; contenders take turns and each round starts with another one."""
    chosen = [contender for contender in CONTENDERS if contender.name in args.only]
    needed = lengths(chosen, args.workloads, spec.events)
    console.print(f"publishing {max(set().union(*needed.values())):,} events, folding the oracle")
    topics = fill(bootstrap, needed, spec, run_id)
    truths = oracle(needed, spec)
    runs = []
    for number in range(args.rounds):
        for workload in args.workloads:
            shift = number % len(chosen)
            for contender in chosen[shift:] + chosen[:shift]:
                events = contender.events(workload, spec.events)
                task = Assignment(
                    contender,
                    workload,
                    events,
                    number + 1,
                    bootstrap,
                    topics[events],
                    spec.partitions,
                    args.timeout_s,
                )
                runs.append(execute(task, truths[workload, events]))
                _tell(runs[-1], args.rounds, console)
    return runs


def _tell(run: Run, rounds_: int, console: Console) -> None:
    outcome = f"[red]{run.problem[:200]}" if run.problem else f"{run.events_per_s:,.0f} events/s"
    console.print(f"round {run.round}/{rounds_} {run.workload} {run.contender}: {outcome}", highlight=False)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 1 when a contender failed or was wrong, else 0."""
    args = parse_args(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    started_at = datetime.now(UTC)
    run_id = f"bench-{started_at:%Y%m%d-%H%M%S}"
    spec = LogSpec(events=args.events)
    with broker(console) as (bootstrap, kafka):
        try:
            runs = rounds(args, bootstrap, run_id, spec, console)
        finally:
            asyncio.run(delete_topics(bootstrap, run_id))
    found = results(args.name or f"stream-{started_at:%Y-%m-%dT%H%M%SZ}", started_at.isoformat(), kafka, spec, runs)
    show(found, console)
    console.print(f"kept: {keep(found, found.name)}")
    return int(any(row.problem for row in found.rows))


if __name__ == "__main__":
    raise SystemExit(main())
