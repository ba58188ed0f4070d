"""How fast state comes back: ``python -m benchmarks.recovery [--events N] [--rounds N]``.

Ours and Quix Streams fold the same log of as many users as events, so that changelogs are as long as the log. Then, in
turns, a new process with an empty disk reads its own changelog back until it is ready for the next event. And a server
reads the changelogs of all tables as real shopping leaves them.
"""

import argparse
import asyncio
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from rich.console import Console
from rich.table import Table

from benchmarks.contract import Job, Recovered, Report
from benchmarks.data import LogSpec, publish
from benchmarks.execute import delete_topics, in_own_process
from benchmarks.report import keep
from benchmarks.run import broker

ENGINES = {"ours": "ours_persona", "quix": "quix_streams"}
REPLICA = "replica_catch_up"
LABELS = {"ours": "persona-stream, worker", "quix": "Quix Streams", "replica": "persona-stream, server"}
TIMEOUT_S = 600.0
HELD_MS = 3_600_000


class Results(msgspec.Struct):
    """Everything about one invocation, as kept in ``benchmarks/results/recovery.json``."""

    started_at: str
    events: int
    runs: dict[str, list[Recovered]]


def measure(bootstrap: str, run_id: str, events: int, rounds: int, console: Console) -> dict[str, list[Recovered]]:
    """Fold once by each engine, then recover in turns."""
    spec = LogSpec(events=events, users=events, zipf=0.0)
    topic = f"{run_id}-log"
    asyncio.run(hold_compaction(bootstrap))
    asyncio.run(publish(bootstrap, topic, spec))
    runs: dict[str, list[Recovered]] = {}
    with tempfile.TemporaryDirectory(prefix="persona-bench-", ignore_cleanup_errors=True) as folder:

        def act(module: str, action: str, kind: type[Report] | type[Recovered]) -> Report | Recovered:
            state = tempfile.mkdtemp(dir=folder)
            job = Job("w1", bootstrap, topic, events, spec.partitions, f"{run_id}-{module}", state)
            return in_own_process(module, action, job, kind, Path(folder), TIMEOUT_S)

        for module in (*ENGINES.values(), REPLICA):
            console.print(f"{module}: writing state")
            act(module, "run", Report)
        for number in range(rounds):
            for name, module in {**ENGINES, "replica": REPLICA}.items():
                done = act(module, "recover", Recovered)
                assert isinstance(done, Recovered)
                runs.setdefault(name, []).append(done)
                rate = done.records / done.elapsed_s
                console.print(
                    f"round {number + 1}/{rounds} {name}: {done.records:,} in {done.elapsed_s:.1f} s, {rate:,.0f}/s"
                )
    return runs


async def hold_compaction(bootstrap: str) -> None:
    """Changelogs stay as they were written: how far a broker's cleaner gets in a minute is not what is measured."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        brokers = [str(node["node_id"]) for node in (await admin.describe_cluster())["brokers"]]
        held = {"log.cleaner.min.compaction.lag.ms": str(HELD_MS)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, name, configs=held) for name in brokers])
    finally:
        await admin.close()


def show(runs: dict[str, list[Recovered]], console: Console) -> None:
    """Print the table."""
    rates = {name: statistics.median(run.records / run.elapsed_s for run in found) for name, found in runs.items()}
    table = Table(title="changelog records read back, median of the rounds")
    for heading in ("who", "records", "seconds", "records/s", "of Quix Streams"):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    for name, found in runs.items():
        seconds = statistics.median(run.elapsed_s for run in found)
        ratio = f"{rates[name] / rates['quix']:.2f}x"
        table.add_row(LABELS[name], f"{found[0].records:,}", f"{seconds:.1f}", f"{rates[name]:,.0f}", ratio)
    console.print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    console = Console()
    started_at = datetime.now(UTC)
    run_id = f"bench-{started_at:%Y%m%d-%H%M%S}"
    with broker(console) as (bootstrap, _):
        try:
            runs = measure(bootstrap, run_id, args.events, args.rounds, console)
        finally:
            asyncio.run(delete_topics(bootstrap, run_id))
    show(runs, console)
    console.print(f"kept: {keep(Results(started_at.isoformat(), args.events, runs), 'recovery')}")


if __name__ == "__main__":
    main()
