"""How fast tables are folded again: ``python -m benchmarks.rebuild [--events N]``.

A year of real shopping is published and folded by a worker. Then `persona-stream rebuild`, as a user runs it, folds
users and items again, verifies them key by key, and a second one folds all tables and switches to them, while a server
is asked for recommendations. Seconds are the whole command's: reading, folding, writing, reading back, comparing.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import aiohttp
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.report import keep
from persona_stream.cli.running import server_url, settings_env
from persona_stream.cli.stream_progress import until_applied
from persona_stream.cli.supervisor import Kafka, Supervisor, child_specs, embedded_kafka, with_free_ports
from persona_stream.demo.dataset import Dataset
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics

CHUNK = 20_000
ASK_EVERY_S = 0.02


class TableRow(msgspec.Struct):
    """One table as the command tells it."""

    records: int
    keys: int
    seconds: float
    digest: str
    verdict: str


class Run(msgspec.Struct):
    """One rebuild."""

    seconds: float
    """From the command's start to its end."""
    built_s: float
    """Without the interpreter's start and the imports."""
    tables: dict[str, TableRow]


class Results(msgspec.Struct):
    """Everything about one invocation, as kept in ``benchmarks/results/rebuild.json``."""

    started_at: str
    events: int
    users_and_items: Run
    all_tables: Run
    answered: int
    """Requests answered while it was switched."""
    failed: int


async def measure(kafka: Kafka, events: int, console: Console) -> Results:
    """Publish, fold, rebuild twice."""
    started_at = datetime.now(UTC).isoformat()
    async with Supervisor(kafka, child_specs(kafka.settings), notify=console.print) as system:
        settings, data = system.settings, Dataset(events)
        topics = Topics(settings.namespace)
        console.print(f"{len(data):,} events are published and folded")
        await publish(settings, topics.items, data.items(), "id")
        await publish(settings, topics.profiles, data.profiles(), "user")
        await publish(settings, topics.events, data.events(), "user")
        await until_applied(settings)
        partly = await rebuild(settings, console, "--no-switch", "--table", "users", "--table", "items")
        asked: list[int] = []
        asking = asyncio.create_task(ask(settings, data.busiest_user(), asked))
        whole = await rebuild(settings, console)
        await until_served(settings, 3)
        asking.cancel()
        failed = sum(status != 200 for status in asked)
        return Results(started_at, len(data), partly, whole, len(asked) - failed, failed)


async def publish(settings: Settings, topic: str, lines: Iterable[bytes], key: str) -> None:
    """Write JSON lines."""
    writer = BatchWriter(settings, client_id="bench")
    await writer.start()
    records = []
    for line in lines:
        records.append(Record(str(json.loads(line)[key]).encode(), line))
        if len(records) == CHUNK:
            await writer.write_keyed(topic, records)
            records = []
    await writer.write_keyed(topic, records)
    await writer.stop()


async def rebuild(settings: Settings, console: Console, *arguments: str) -> Run:
    """Run the command; exits where it fails, or tables are not equal."""
    started_s = perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "persona_stream", "rebuild", *arguments, env=settings_env(settings), stdout=PIPE
    )
    text = (await process.communicate())[0].decode()
    seconds = perf_counter() - started_s
    console.print(text)
    if process.returncode:
        raise SystemExit(f"rebuild {' '.join(arguments)} ended with {process.returncode}")
    tables, built_s = {}, 0.0
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) == 7 and fields[0] != "table":
            name, records, keys, spent, _, digest, verdict = (field.replace(",", "") for field in fields)
            tables[name] = TableRow(int(records), int(keys), float(spent), digest, verdict)
        elif line.startswith("built in"):
            built_s = float(line.split()[2])
    return Run(seconds, built_s, tables)


async def ask(settings: Settings, user: str, statuses: list[int]) -> None:
    """Ask for recommendations until cancelled; 0 where nobody answers."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{server_url(settings)}/v1/recommend/{user}") as answer:
                    await answer.read()
                    statuses.append(answer.status)
            except aiohttp.ClientError:
                statuses.append(0)
            await asyncio.sleep(ASK_EVERY_S)


async def until_served(settings: Settings, generation: int) -> None:
    """Wait until the server answers from a generation."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{server_url(settings)}/readyz?verbose") as answer:
                tables = (await answer.json())["tables"].values()
            if {table["generation"] for table in tables} == {generation}:
                return
            await asyncio.sleep(ASK_EVERY_S)


def show(found: Results, console: Console) -> None:
    """Print the table."""
    table = Table(title=f"{found.events:,} real events folded again by one command")
    for heading in ("rebuild of", "seconds", "events/s", "beside the live tables"):
        table.add_column(heading, justify="left" if heading in {"rebuild of", "beside the live tables"} else "right")
    for name, run in (("users and items", found.users_and_items), ("all tables", found.all_tables)):
        verdicts = ", ".join(sorted({row.verdict for row in run.tables.values()}))
        table.add_row(name, f"{run.built_s:.1f}", f"{found.events / run.built_s:,.0f}", verdicts)
    for name, row in found.all_tables.tables.items():
        table.add_row(f"  {name}", f"{row.seconds:.1f}", f"{row.records / max(row.seconds, 0.05):,.0f} records/s", "")
    console.print(table)
    console.print(f"while it was switched: {found.answered:,} requests answered, {found.failed} failed")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rebuild", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    args = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="persona-bench-", ignore_cleanup_errors=True) as folder:
        wished = Settings.load({"home": Path(folder), "http_port": 18080}, env={})
        with embedded_kafka(with_free_ports(wished, console.print), lambda _: None) as kafka:
            found = asyncio.run(measure(kafka, args.events, console))
    show(found, console)
    console.print(f"kept: {keep(found, 'rebuild')}")


if __name__ == "__main__":
    main()
